"""Studies of published sizes over synthetic rows that lie in memory: noise, since only time and memory are measured."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_client.data.cohort import Cohort
from fl_shared import concepts
from fl_shared.site import Site
from fl_shared.study import Study
from fl_shared.weights import directory_digest

sys.path.insert(0, str(Path(__file__).parents[1] / "shared" / "models"))
from random_rows import random_rows  # of the tests, which are no package

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
FIELDS = list(concepts.names())
INPUTS: Mapping[str, dict[str, Any]] = {
    "cine": {"kind": "cine", "frames": 16, "size": 224},
    "ecg": {"kind": "waveform", "leads": LEADS, "rate": 125.0, "seconds": 5.12},
    "ecg10": {"kind": "waveform", "leads": LEADS, "rate": 100.0, "seconds": 10.0},
    "ehr": {"kind": "table", "fields": FIELDS[:40]},
    "series": {"kind": "events", "fields": FIELDS[:17], "hours": 48.0, "bins": 48},
    "slices": {"kind": "embedding", "features": 1024, "vectors": 64},
    "text": {"kind": "text", "max_tokens": 512},
    "xray": {"kind": "image", "size": 224},
}
"""Modalities as the five source papers have them, as far as they say."""

DEATH: Mapping[str, Any] = {"death": {"type": "binary"}}
SURVIVAL: Mapping[str, Any] = {"survival": {"type": "survival", "horizon": 365.0, "bins": 20}}
FIBROSIS: Mapping[str, Any] = {
    "fibrosis": {"type": "segmentation", "labels": ["myocardium", "fibrosis"], "modality": "cine"}
}


def study_of(
    system: str,
    inputs: Mapping[str, Mapping[str, Any]],
    *,
    patients: int,
    batch: int,
    tasks: Mapping[str, Any] = DEATH,
    model: Mapping[str, Any] | None = None,
    mode: str = "none",
    **training: Any,
) -> Study:
    """One site that trains a system's ``paper`` preset; a round a phase unless ``training`` says more."""
    return Study.model_validate(
        {
            "schema": 1,
            "name": "published",
            "seed": 1,
            "sites": {"a": {"role": "train", "patients": patients}},
            "tasks": tasks,
            "modalities": inputs,
            "model": {"system": system, "preset": "paper", **(model or {})},
            "training": {
                "rounds": 5,
                "steps": 1,
                "batch": batch,
                "learning_rate": 1e-4,
                "encoders": "shared",
                **training,
            },
            "privacy": {"mode": mode} | ({"epsilon": 8} if mode == "patient" else {}),
            "rounds": {"quorum": 1},
            "evaluation": {"salt": "saltsalt"},
        }
    )


def cohort_of(study: Study, rows: int) -> Cohort:
    """A row a patient."""
    made = random_rows(study, rows)
    return Cohort(
        site="a",
        sample_ids=tuple(f"s{k}" for k in range(rows)),
        patient_ids=tuple(f"p{k}" for k in range(rows)),
        patient=np.arange(rows),
        held_out=np.zeros(rows, bool),
        inputs={name: _arrays(named) for name, named in made.inputs.items()},
        present=_arrays(made.present),
        targets=_arrays(made.targets),
        target_mask=_arrays(made.target_mask),
    )


def _arrays(named: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    return {name: tensor.numpy() for name, tensor in named.items()}


def site_in(folder: Path, *, weights: Mapping[str, Path] | None = None) -> Site:
    """A site whose state lies in ``folder``."""
    given = {name: str(path) for name, path in (weights or {}).items()}
    site = Site.model_validate({"schema": 1, "name": "a", "state": str(folder / "state"), "weights": given})
    site._folder = folder
    return site


def bert_base(folder: Path) -> Path:
    """A directory with a BERT of the base size (Devlin et al. 2019), its weights drawn at random."""
    from transformers import BertConfig, BertModel

    if not folder.exists():
        torch.manual_seed(0)
        BertModel(BertConfig()).save_pretrained(folder)
    return folder


def with_bert(plan: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """A text modality that reads `bert_base`."""
    pinned = directory_digest(bert_base(folder))
    return {**plan, "weights": "bert", "weights_sha256": pinned, "provenance": "public"}
