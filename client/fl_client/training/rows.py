"""A cohort as tensors on the training device, converted once; which of its rows a phase trains on; reading them."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_client.data.cohort import Cohort
from fl_client.data.traits import has_every
from fl_shared.models.interface import Batch, each_tensor
from fl_shared.models.systems.system import ALONE
from fl_shared.study import STACK_SHARE, EvaluationPlan, PhasePlan, Study, in_stack, is_taken

T = TypeVar("T")


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


class RowReader:
    """Rows of a batch, as `fl_shared.models.interface.take` gives them, in memory that the next reading writes over.

    Fresh memory costs a page fault every 4 KiB, several times the copying itself.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._room: dict[int, Tensor] = {}

    def __call__(self, rows: NDArray[np.int64]) -> Batch:
        """These rows."""
        chosen = torch.as_tensor(rows, device=self._batch.index.device)
        return each_tensor(lambda x: torch.index_select(x, 0, chosen, out=self._of(x, len(chosen))), self._batch)

    def _of(self, source: Tensor, rows: int) -> Tensor:
        room = self._room.get(id(source))
        if room is None or len(room) < rows:
            room = self._room[id(source)] = source.new_empty((rows, *source.shape[1:]))
        return room[:rows]


def span(part: T, start: int, stop: int) -> T:
    """Consecutive rows of a batch, or of anything that `fl_shared.models.interface.take` takes; nothing is copied."""
    return each_tensor(lambda x: x[start:stop], part)


def phase_rows(cohort: Cohort, phase: PhasePlan, *, site: str, plan: EvaluationPlan) -> NDArray[np.int64]:
    """Rows of the training patients of a phase."""
    rows = cohort.rows(held_out=False)
    if phase.patients == "all":
        return rows
    stack = np.array([in_stack(patient, site=site, plan=plan) for patient in cohort.patient_ids], dtype=bool)
    chosen: NDArray[np.int64] = rows[stack[cohort.patient[rows]] == (phase.patients == "stack")]
    return chosen


def trained_rows(cohort: Cohort, phase: PhasePlan, *, study: Study) -> NDArray[np.int64]:
    """As `phase_rows`, without the samples lacking a modality that the study leaves out (`TrainingPlan.unpaired`).

    Where each modality is trained alone (MedFuse's first stage), nothing is left out. What is left out of a patient
    hangs on its own samples and its hash alone: a patient more or less is that patient's records more or less.
    """
    rows = phase_rows(cohort, phase, site=cohort.site, plan=study.evaluation)
    share = study.training.unpaired
    if share == 1 or phase.objective in ALONE:
        return rows
    plan, site = study.evaluation, cohort.site
    taken = np.array([is_taken(p, site=site, plan=plan, share=share) for p in cohort.patient_ids], dtype=bool)
    kept: NDArray[np.int64] = rows[(has_every(cohort.present, study.modalities) | taken[cohort.patient])[rows]]
    return kept


def share_of(phase: PhasePlan) -> float:
    """Expected share of the training patients that a phase trains on: the true one would leak."""
    return {"all": 1.0, "stack": STACK_SHARE, "fit": 1 - STACK_SHARE}[phase.patients]


def one_record(cohort: Cohort, *, rows: NDArray[np.int64], plan: EvaluationPlan) -> NDArray[np.int64]:
    """One of ``rows`` a patient, by a salted hash of its sample: the same in all counts of a study.

    Whose other records or patients there are changes nothing, so that a patient more or less is a record more or less.
    """
    drawn = [_hash(plan, cohort.site, cohort.sample_ids[row]) for row in rows]
    order = sorted(range(len(rows)), key=lambda at: (cohort.patient[rows[at]], drawn[at]))
    chosen = rows[order]
    _, first = np.unique(cohort.patient[chosen], return_index=True)
    return np.asarray(chosen[first], dtype=np.int64)


def _hash(plan: EvaluationPlan, site: str, sample: str) -> bytes:
    return hashlib.sha256(f"{plan.salt}\0record\0{site}\0{sample}".encode()).digest()
