"""A small study of five modalities and two tasks, and rows for it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from fl_shared.models.interface import Batch
from fl_shared.study import Study
from fl_shared.text import byte_ids

LEADS = ("I", "II", "V1")
FIELDS = ("age", "sex", "bmi", "ef")
TOKENS = 24
FRAMES = 5

for name in ("random_rows", "acceptance"):  # shared by tests of this folder, which is no package
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


@pytest.fixture
def plan() -> dict[str, object]:
    return {
        "schema": 1,
        "name": "small",
        "seed": 7,
        "sites": {"a": {"role": "train", "patients": 20}},
        "tasks": {"death": {"type": "binary"}, "mace": {"type": "multilabel", "labels": ["mi", "stroke", "hf"]}},
        "modalities": {
            "cine": {"kind": "cine", "frames": FRAMES, "slices": 2, "size": 16},
            "ecg": {"kind": "waveform", "leads": LEADS, "rate": 100, "seconds": 2},
            "ehr": {"kind": "table", "fields": FIELDS},
            "series": {"kind": "events", "fields": ["sbp", "heart_rate"], "hours": 10, "bins": 20},
            "text": {"kind": "text", "max_tokens": TOKENS},
        },
        "model": {"width": 16, "depth": 2, "heads": 2, "modality_dropout": 0.3},
        "training": {"rounds": 1, "steps": 1, "batch": 4},
        "privacy": {"mode": "none"},
        "rounds": {"quorum": 1},
        "evaluation": {"salt": "saltsalt"},
    }


@pytest.fixture
def study(plan: dict[str, object]) -> Study:
    return Study.model_validate(plan)


@pytest.fixture
def rows() -> Callable[..., Batch]:
    return make_rows


def make_rows(n: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    """Random rows, some with absent modalities, unobserved fields, missing leads and unknown labels."""
    g = torch.Generator().manual_seed(seed)

    def flags(*shape: int, share: float = 0.7) -> torch.Tensor:
        return torch.rand(shape, generator=g) < share

    texts = [byte_ids("chest pain " * int(k), max_tokens=TOKENS) for k in torch.randint(0, 4, (n,), generator=g)]
    present = {"ecg": flags(n), "text": flags(n), "cine": flags(n), "series": flags(n)}
    present["ehr"] = flags(n) | ~torch.stack(list(present.values())).any(0)
    frames = flags(n, FRAMES)
    frames[:, 0] = True
    inputs = {
        "cine": {
            "video": torch.randn(n, FRAMES, 2, 16, 16, generator=g).to(dtype),
            "frame_mask": frames,
            "slice_mask": flags(n, 2),
        },
        "ecg": {"signal": torch.randn(n, 3, 200, generator=g).to(dtype), "lead_mask": flags(n, 3)},
        "ehr": {"values": torch.rand(n, 4, generator=g).to(dtype), "observed": flags(n, 4)},
        "series": {"values": torch.randn(n, 20, 2, generator=g).to(dtype), "observed": flags(n, 20, 2, share=0.4)},
        "text": {
            "ids": torch.stack([torch.from_numpy(ids) for ids, _ in texts]),
            "mask": torch.stack([torch.from_numpy(mask) for _, mask in texts]),
        },
    }
    for name, named in inputs.items():
        for key, value in named.items():
            named[key] = value * present[name].view(-1, *[1] * (value.dim() - 1)).to(value.dtype)
    return Batch(
        inputs=inputs,
        present=present,
        targets={"death": flags(n, 1).to(dtype), "mace": flags(n, 3, share=0.5).to(dtype)},
        target_mask={"death": flags(n, 1), "mace": flags(n, 3)},
        index=torch.arange(n),
    )
