"""The product's model on a small study of three modalities, and rows for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fl_shared.models.build import build_model
from fl_shared.models.interface import Batch
from fl_shared.models.model import MultimodalModel
from fl_shared.study import Study


@pytest.fixture
def small_model() -> Any:
    return make_model


@pytest.fixture
def small_batch() -> Any:
    return make_batch


def make_model(*, dropout: float = 0.0, encoders: str = "local") -> MultimodalModel:
    study = Study.model_validate(
        {
            "schema": 1,
            "name": "small",
            "seed": 3,
            "sites": {"a": {"role": "train", "patients": 20}},
            "tasks": {"death": {"type": "binary"}, "mace": {"type": "multilabel", "labels": ["mi", "hf"]}},
            "modalities": {
                "ecg": {"kind": "waveform", "leads": ["I", "II"], "rate": 50, "seconds": 2},
                "ehr": {"kind": "table", "fields": ["age", "sex", "bmi"]},
                "text": {"kind": "text", "max_tokens": 12},
            },
            "model": {"width": 16, "depth": 2, "heads": 2, "dropout": dropout, "modality_dropout": dropout},
            "training": {"rounds": 1, "steps": 1, "batch": 4, "encoders": encoders},
            "privacy": {"mode": "patient", "epsilon": 8},
            "rounds": {"quorum": 1},
            "evaluation": {"salt": "saltsalt"},
        }
    )
    return build_model(study)


def make_batch(rows: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Batch:
    g = torch.Generator().manual_seed(seed)
    present = {"ecg": torch.rand(rows, generator=g) < 0.7, "text": torch.rand(rows, generator=g) < 0.7}
    present["ehr"] = ~(present["ecg"] & present["text"])
    lengths = torch.randint(1, 13, (rows, 1), generator=g)
    return Batch(
        inputs={
            "ecg": {
                "signal": 2 * torch.randn(rows, 2, 100, generator=g, dtype=dtype),
                "lead_mask": torch.rand(rows, 2, generator=g) < 0.9,
            },
            "ehr": {
                "values": torch.rand(rows, 3, generator=g, dtype=dtype),
                "observed": torch.rand(rows, 3, generator=g) < 0.8,
            },
            "text": {"ids": torch.randint(4, 100, (rows, 12), generator=g), "mask": torch.arange(12) < lengths},
        },
        present=present,
        targets={t: (torch.rand(rows, c, generator=g) < 0.5).to(dtype) for t, c in (("death", 1), ("mace", 2))},
        target_mask={t: torch.rand(rows, c, generator=g) < 0.9 for t, c in (("death", 1), ("mace", 2))},
        index=torch.arange(rows),
    )
