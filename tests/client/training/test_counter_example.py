"""Why provenance is a gate: encoders pretrained on the same patients without privacy, noise on the fusion only.

The clip bounds what a patient moves through the fusion's gradients, not what they moved through the encoders before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fl_client.data.cohort import Cohort
from fl_client.privacy.clipping import GhostClipper
from fl_client.training.rows import as_batch
from fl_shared.models.build import build_model, load, select
from fl_shared.models.interface import take
from fl_shared.study import Study
from fl_shared.wire import Arrays

CLIP = 0.05


def without(cohort: Cohort, patient: int) -> Cohort:
    return replace(cohort, held_out=cohort.held_out | (np.arange(len(cohort.held_out)) == patient))


def pretrained(make_study: Any, make_trainer: Any, cohort: Cohort, name: str) -> Arrays:
    """Encoders after plain training on the cohort."""
    plan = make_study(dropout=0.0, encoders="shared", steps=60, learning_rate=0.01)
    model = select(build_model(plan))
    for number in (1, 2):
        model |= make_trainer(plan, known=cohort, state=name).train(round=number, base=model, sigma=None)
    return {key: array for key, array in model.items() if key.startswith("encoders.")}


def clipped_sum(plan: Study, cohort: Cohort, encoders: Arrays) -> torch.Tensor:
    """The fusion's clipped sum over the cohort's training patients, one record each."""
    model = build_model(plan)
    load(model, {**select(model), **encoders})
    model.enter(1)
    rows = cohort.rows(held_out=False)
    first = rows[np.unique(cohort.patient[rows], return_index=True)[1]]
    batch = take(as_batch(cohort, device=torch.device("cpu")), first)
    sums = GhostClipper(model).clipped_sum(batch, clip=CLIP, micro_batch=len(first))
    return torch.cat([value.flatten() for value in sums.values()])


def test_one_patient_moves_the_release_further_than_the_clip(
    make_study: Any, make_trainer: Any, make_cohort: Any
) -> None:
    cohort = make_cohort("a")
    plan = make_study(mode="patient", dropout=0.0, encoders="frozen")
    patient = int(np.flatnonzero(~cohort.held_out)[0])
    fewer = without(cohort, patient)
    with_them = pretrained(make_study, make_trainer, cohort, "with")
    without_them = pretrained(make_study, make_trainer, fewer, "without")

    def moved(first: Arrays, second: Arrays) -> float:
        return float((clipped_sum(plan, cohort, first) - clipped_sum(plan, fewer, second)).norm()) / CLIP

    assert moved(with_them, with_them) <= 1 + 1e-5  # the same encoders whoever takes part: the clip holds
    assert moved(with_them, without_them) > 2  # the accountant would count 1


def test_such_a_study_is_refused(make_study: Any) -> None:
    body = make_study(mode="patient", encoders="frozen").model_dump(mode="json", by_alias=True)
    body["modalities"]["ecg"] |= {"weights": "ours", "weights_sha256": "0" * 64, "provenance": "local"}
    with pytest.raises(ValueError, match=r"encoders\.ecg: pretrained locally without") as refused:
        Study.model_validate(body)
    assert "mode 'none'" in str(refused.value)
