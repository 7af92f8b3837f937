"""A cohort as tensors on the training device, converted once; which of its rows a phase trains on."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client.data.cohort import Cohort
from fl_shared.models.interface import Batch
from fl_shared.study import STACK_SHARE, EvaluationPlan, PhasePlan, in_stack


def as_batch(cohort: Cohort, *, device: torch.device) -> Batch:
    """All rows of the cohort as one batch; row numbers are those of the cohort."""

    def tensor(array: NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)

    return Batch(
        inputs={m: {k: tensor(v) for k, v in named.items()} for m, named in cohort.inputs.items()},
        present={m: tensor(v) for m, v in cohort.present.items()},
        targets={t: tensor(v) for t, v in cohort.targets.items()},
        target_mask={t: tensor(v) for t, v in cohort.target_mask.items()},
        index=tensor(cohort.patient),
    )


def phase_rows(cohort: Cohort, phase: PhasePlan, *, site: str, plan: EvaluationPlan) -> NDArray[np.int64]:
    """Rows of the training patients of a phase."""
    rows = cohort.rows(held_out=False)
    if phase.patients == "all":
        return rows
    stack = np.array([in_stack(patient, site=site, plan=plan) for patient in cohort.patient_ids], dtype=bool)
    chosen: NDArray[np.int64] = rows[stack[cohort.patient[rows]] == (phase.patients == "stack")]
    return chosen


def share_of(phase: PhasePlan) -> float:
    """Expected share of the training patients that a phase trains on: the true one would leak."""
    return {"all": 1.0, "stack": STACK_SHARE, "fit": 1 - STACK_SHARE}[phase.patients]
