"""Counts of a site's training patients for the study's statistics (layout: `fl_shared.counts`)."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from fl_client.data.cohort import Cohort
from fl_client.privacy.noised_counts import noised
from fl_client.privacy.small_cells import merged_cells, withheld_classes
from fl_client.training.rows import one_record
from fl_shared.counts import FieldCount, counted_tasks, field_counts, statistics_sensitivity
from fl_shared.study import Study, TaskPlan

Counts = dict[str, NDArray[np.int64]]


def statistics(study: Study, cohort: Cohort, *, sigma: float | None, min_patients: int) -> Counts:
    """What leaves: noised counts, or (without a noise multiplier) exact ones under the rules for small cells.

    Without noise nothing is told of fewer than ``min_patients`` in all.
    """
    counts = exact_statistics(study, cohort)
    if sigma is not None:
        return noised(counts, sigma=sigma, sensitivity=statistics_sensitivity(study))
    if len(np.unique(cohort.patient[cohort.rows(held_out=False)])) < min_patients:
        return {name: np.zeros_like(cells) for name, cells in counts.items()}
    fields = {field.name: field for field in field_counts(study)}
    return {
        name: _told_field(fields[name], cells) if name in fields else _told_task(cells)
        for name, cells in counts.items()
    }


def exact_statistics(study: Study, cohort: Cohort) -> Counts:
    """The counts themselves; every training patient is in one cell of each histogram."""
    rows = one_record(cohort, rows=cohort.rows(held_out=False), plan=study.evaluation)
    counts = {}
    for field in field_counts(study):
        values, observed = _values(study, cohort, field, rows)
        counts[field.name] = np.bincount(field.cells(values, observed), minlength=field.size).astype(np.int64)
    for task, plan in counted_tasks(study).items():
        counts[f"tasks.{task}"] = _outcomes(plan, cohort.targets[task][rows], cohort.target_mask[task][rows])
    return counts


def _values(
    study: Study, cohort: Cohort, field: FieldCount, rows: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Scaled value (n,) of a field in each record, and whether it has one; of a series, that of one of its bins."""
    at = study.modalities[field.modality].fields.index(field.concept.name)
    named = cohort.inputs[field.modality]
    values = np.asarray(named["values"][rows, ..., at], dtype=np.float64)
    observed = np.asarray(named["observed"][rows, ..., at], dtype=np.bool_)
    observed &= cohort.present[field.modality][rows].reshape(-1, *[1] * (observed.ndim - 1))
    if values.ndim == 1:
        return values, observed
    count = observed.sum(1)
    drawn = np.array([_draw(study, field, cohort.sample_ids[row]) for row in rows], dtype=np.uint64)
    wanted = (drawn % np.maximum(count, 1).astype(np.uint64)).astype(np.int64)
    chosen = (np.cumsum(observed, axis=1) > wanted[:, None]).argmax(1)
    return values[np.arange(len(rows)), chosen], count > 0


def _draw(study: Study, field: FieldCount, sample: str) -> int:
    text = f"{study.evaluation.salt}\0{field.name}\0{sample}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _outcomes(plan: TaskPlan, targets: NDArray[np.floating], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(labels, 3) without, with, unknown; of exclusive classes (classes + 1,), the last unknown."""
    if plan.type == "multiclass":
        cells = np.where(known[:, 0], targets[:, 0], len(plan.labels)).astype(np.int64)
        return np.bincount(cells, minlength=len(plan.labels) + 1).astype(np.int64)
    cells = np.where(known, targets == 1, 2).astype(np.int64)
    return np.stack([np.bincount(column, minlength=3) for column in cells.T]).astype(np.int64)


def _told_field(field: FieldCount, cells: NDArray[np.int64]) -> NDArray[np.int64]:
    rule = withheld_classes if field.codes else merged_cells
    told, missing = rule(cells[:-1], int(cells[-1]))
    return np.append(told, missing)


def _told_task(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    rows = np.atleast_2d(cells)
    told = np.stack([np.append(*withheld_classes(row[:-1], int(row[-1]))) for row in rows])
    return told.reshape(cells.shape)
