"""A small study of two modalities, a site with a state folder, and a cohort in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_client.data.cohort import Cohort
from fl_client.training.loop import Trainer
from fl_shared.site import Site
from fl_shared.study import Study

PATIENTS, RECORDS = 30, 45


@pytest.fixture
def make_study() -> Callable[..., Study]:
    return study


def study(
    *,
    mode: str = "none",
    dropout: float = 0.1,
    leaky: bool = False,
    drawn: bool = False,
    model: dict[str, Any] | None = None,
    batch: int = 8,
    steps: int = 3,
    **training: Any,
) -> Study:
    """``drawn``: with a cine on which scars are drawn."""
    scar = {"scar": {"type": "segmentation", "labels": ["scar"], "modality": "cine"}} if drawn else {}
    cine = {"cine": {"kind": "cine", "frames": 2, "size": 16}} if drawn else {}
    sizes = {"width": 8, "depth": 1, "heads": 2, "dropout": dropout, "modality_dropout": dropout}
    return Study.model_validate(
        {
            "schema": 1,
            "name": "small",
            "seed": 3,
            "sites": {"a": {"role": "train", "patients": 24}, "z": {"role": "external"}},
            "tasks": {
                "death": {"type": "binary"},
                "mace": {"type": "multilabel", "labels": ["mi", "hf"], "headline": ["hf"]},
                **scar,
            },
            "modalities": {
                "ecg": {"kind": "waveform", "leads": ["I", "II"], "rate": 50, "seconds": 2},
                "ehr": {"kind": "table", "fields": ["age", "sex", "bmi"], "leaky": leaky},
                **cine,
            },
            "model": sizes | (model or {}),
            "training": {"rounds": 9, "steps": steps, "batch": batch, **training},
            "privacy": {"mode": mode} | ({"epsilon": 8} if mode == "patient" else {}),
            "rounds": {"quorum": 1},
            "evaluation": {"salt": "saltsalt", "bootstrap": 100, "min_patients": 2},
        }
    )


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., Trainer]:
    def make(
        plan: Study, *, name: str = "a", state: str = "state", known: Cohort | None = None, **more: Any
    ) -> Trainer:
        known = known or cohort(name, drawn="cine" in plan.modalities)
        return Trainer(study=plan, site=site(tmp_path, name, state), cohort=known, **more)

    return make


@pytest.fixture
def make_cohort() -> Callable[..., Cohort]:
    return cohort


def site(folder: Path, name: str, state: str) -> Site:
    made = Site.model_validate({"schema": 1, "name": name, "state": state, "privacy": {"min_patients": 2}})
    made._folder = folder
    return made


def cohort(name: str, *, drawn: bool = False) -> Cohort:
    """Three records in two patients on average, a third of the patients held out, outcomes that can be learned."""
    rng = np.random.default_rng(5)
    patient = np.concatenate([np.arange(PATIENTS), rng.integers(PATIENTS, size=RECORDS - PATIENTS)]).astype(np.int64)
    sick = rng.random((PATIENTS, 1)) < 0.5
    ecg = rng.random(RECORDS) < 0.8
    ehr = ~ecg | (rng.random(RECORDS) < 0.8)
    signal = rng.normal(size=(RECORDS, 2, 100)).astype(np.float32) * np.where(sick, 2, 1)[patient][:, :, None]
    values = (rng.random((RECORDS, 3)) + sick[patient]).astype(np.float32)
    made = Cohort(
        site=name,
        sample_ids=tuple(f"s{k}" for k in range(RECORDS)),
        patient_ids=tuple(f"p{k}" for k in range(PATIENTS)),
        patient=patient,
        held_out=np.arange(PATIENTS) % 3 == 0,
        inputs={
            "ecg": {"signal": signal.astype(np.float32) * ecg[:, None, None], "lead_mask": np.ones((RECORDS, 2), bool)},
            "ehr": {"values": values * ehr[:, None], "observed": np.ones((RECORDS, 3), bool) & ehr[:, None]},
        },
        present={"ecg": ecg, "ehr": ehr},
        targets={
            "death": sick[patient].astype(np.float32),
            "mace": np.concatenate([sick[patient], ~sick[patient]], axis=1).astype(np.float32),
        },
        target_mask={"death": np.ones((RECORDS, 1), bool), "mace": rng.random((RECORDS, 2)) < 0.9},
    )
    return with_cine(made) if drawn else made


def with_cine(made: Cohort) -> Cohort:
    """Four of five records have a cine, on half of which bright squares are drawn as scars."""
    rng = np.random.default_rng(6)
    there, known = rng.random(RECORDS) < 0.8, rng.random((RECORDS, 2, 1)) < 0.5
    scar = np.zeros((RECORDS, 2, 1, 16, 16), np.uint8)
    scar[:, :, :, 4:9, 5:11] = 1
    video = (rng.normal(size=scar.shape) * 0.1 + scar).astype(np.float32) * there[:, None, None, None, None]
    masks = {"frame_mask": np.ones((RECORDS, 2), bool), "slice_mask": np.ones((RECORDS, 1), bool)}
    cine = {"video": video, **masks, "spacing": np.ones((RECORDS, 3), np.float32)}
    return replace(
        made,
        inputs={**made.inputs, "cine": cine},
        present={**made.present, "cine": there},
        targets={**made.targets, "scar": scar},
        target_mask={**made.target_mask, "scar": known & there[:, None, None]},
    )
