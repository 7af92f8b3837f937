"""A small study of five modalities and two tasks, and rows for it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fl_shared.models.interface import Batch
from fl_shared.study import Study

LEADS = ("I", "II", "V1")
FIELDS = ("age", "sex", "bmi", "ef")
TOKENS = 24
FRAMES = 5

for name in ("random_rows", "acceptance", "single_patients", "one_patient"):  # shared here: no package
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
def rows(study: Study) -> Callable[..., Batch]:
    return partial(sys.modules["random_rows"].random_rows, study)
