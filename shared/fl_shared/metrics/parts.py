"""What is judged of a task, type by type: its labels, the samples of each, and the measure that they go through."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics import timed
from fl_shared.metrics.disclosure import tell_small
from fl_shared.metrics.outcomes import Masks, Numbers, Risks
from fl_shared.metrics.part import Part, Rows
from fl_shared.metrics.table import metrics_of
from fl_shared.study import TaskPlan, TaskType

Floats = NDArray[np.float64]


def predicted_shape(plan: TaskPlan) -> tuple[int, ...]:
    """Shape of one sample's prediction, as `Head.predict` says.

    Of a segmentation (structures, 4): voxels predicted, those of them that are right, the sum of HD95 in mm over frames
    and the number of these frames; its targets (structures,) are voxels drawn.
    """
    match plan.type:
        case "survival":
            return (1,) if plan.survival_model == "cox" else (plan.bins,)
        case "competing":
            return (plan.bins, len(plan.labels))
        case "segmentation":
            return (len(plan.labels), 4)
        case _:
            return (max(len(plan.labels), 1),)


def parts_of(plan: TaskPlan, rows: Rows) -> list[Part]:
    """The labels of a task in the order of `TaskPlan.told`."""
    return _PARTS[plan.type](plan, rows)


def judged_parts(
    plan: TaskPlan,
    *,
    predictions: NDArray[np.floating],
    targets: NDArray[np.floating],
    mask: NDArray[np.bool_],
    patients: NDArray[np.integer],
    min_patients: int,
    gives_away: Collection[str] = (),
) -> tuple[list[Part], NDArray[np.int64], int]:
    """The labels of a task in N samples of arbitrary patients; the patient of each sample from 0 on; their number.

    Arguments as of `fl_shared.metrics.evaluate.evaluate_predictions`.

    Raises:
        ValueError: the shapes do not fit.
    """
    columns = len(plan.labels if plan.type == "segmentation" else plan.names)
    shapes = (len(patients), *predicted_shape(plan)), (len(patients), columns)
    if predictions.shape != shapes[0] or not targets.shape == mask.shape == shapes[1]:
        raise ValueError(
            f"predictions {predictions.shape}, targets {targets.shape}, mask {mask.shape}: expected {shapes}"
        )
    names, patient = np.unique(patients, return_inverse=True)
    rows = Rows(
        predictions=predictions.astype(np.float64),
        targets=targets.astype(np.float64),
        mask=mask,
        patients=patient,
        cohort=len(names),
        min_patients=min_patients,
    )
    parts = [_silent(part) if part.cell.label in gives_away else part for part in parts_of(plan, rows)]
    return parts, patient, len(names)


def _silent(part: Part) -> Part:
    """Without what tells its number of events."""
    return replace(part, cell=replace(part.cell, gives_away=True))


def _labels(plan: TaskPlan, rows: Rows) -> list[Part]:
    columns = zip(plan.told, rows.predictions.T, rows.targets.T, rows.mask.T, strict=True)
    return [_risks(rows, label, p, y, known) for label, p, y, known in columns]


def _classes(plan: TaskPlan, rows: Rows) -> list[Part]:
    """Each class against the others."""
    known, numbers = rows.mask[:, 0], np.arange(len(plan.labels))
    targets = (rows.targets[:, :1] == numbers).astype(np.float64)
    small = tell_small(targets[known].T == 1, rows.patients[known])
    columns = zip(plan.told, rows.predictions.T, targets.T, strict=True)
    return [_risks(rows, label, p, y, known, gives_away=small) for label, p, y in columns]


def _risks(
    rows: Rows, label: str, predicted: Floats, target: Floats, known: NDArray[np.bool_], *, gives_away: bool = False
) -> Part:
    scored = predicted[known], target[known]
    return Part(
        cell=rows.cell(label, known, predicted, outcome=scored[1], gives_away=gives_away),
        known=known,
        metrics=metrics_of("binary"),
        measure=partial(Risks.of, *scored, rows.patients[known], cohort=rows.cohort),
        scored=scored,
    )


def _number(plan: TaskPlan, rows: Rows) -> list[Part]:
    known, predicted = rows.mask[:, 0], rows.predictions[:, 0]
    return [
        Part(
            cell=rows.cell("", known, predicted),
            known=known,
            metrics=tuple(name for name in metrics_of("regression") if plan.cuts or name != "kappa"),
            measure=partial(
                Numbers.of,
                predicted[known],
                rows.targets[known, 0],
                rows.patients[known],
                cohort=rows.cohort,
                cuts=plan.cuts,
            ),
        )
    ]


def _structures(plan: TaskPlan, rows: Rows) -> list[Part]:
    """Each structure, in the patients in whom somebody drew and there is any of it, drawn or predicted."""
    parts = []
    for c, label in enumerate(plan.told):
        predicted, drawn = rows.predictions[:, c], rows.targets[:, c]
        either = np.where(rows.mask[:, c], predicted[:, 0] + drawn, 0)
        voxels = np.bincount(rows.patients, weights=either, minlength=rows.cohort)
        known = rows.mask[:, c] & (voxels > 0)[rows.patients]
        parts.append(
            Part(
                cell=rows.cell(label, known, predicted),
                known=known,
                metrics=metrics_of("segmentation"),
                measure=partial(Masks.of, predicted[known], drawn[known], rows.patients[known], cohort=rows.cohort),
            )
        )
    return parts


_PARTS: Mapping[TaskType, Callable[[TaskPlan, Rows], list[Part]]] = {
    "binary": _labels,
    "multilabel": _labels,
    "multiclass": _classes,
    "regression": _number,
    "survival": timed.survival,
    "competing": timed.competing,
    "segmentation": _structures,
}
