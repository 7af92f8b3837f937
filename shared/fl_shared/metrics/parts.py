"""What is judged of a task, type by type: its labels, the samples of each, and the measure that they go through."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.bootstrap import Measure
from fl_shared.metrics.disclosure import Cell, tell_small
from fl_shared.metrics.outcomes import Masks, Numbers, Risks
from fl_shared.metrics.survival import Concordance, TimedRanking, outcome_by, risk_at
from fl_shared.metrics.table import MetricName, metrics_of
from fl_shared.study import TaskPlan, TaskType

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """What a model said of N samples, and what was true. Patients are numbers 0 to ``cohort`` - 1."""

    predictions: Floats  # (N, *predicted_shape(plan))
    targets: Floats  # (N, C)
    mask: NDArray[np.bool_]  # (N, C) true where the target is known
    patients: NDArray[np.int64]  # (N,)
    cohort: int
    min_patients: int

    @property
    def followed(self) -> NDArray[np.bool_]:
        """(N,) samples of which all columns are known: of a time to an event, both."""
        return np.asarray(self.mask.all(axis=1), dtype=np.bool_)

    def cell(self, label: str, known: NDArray[np.bool_], predicted: Floats, **more: object) -> Cell:
        """The cell of the ``known`` samples (N,), from their predictions."""
        finite = bool(np.isfinite(predicted[known]).all())
        return Cell(
            label=label,
            patients=self.patients[known],
            min_patients=self.min_patients,
            finite=finite,
            **more,  # type: ignore[arg-type]
        )


@dataclass(frozen=True, kw_only=True)
class Part:
    """One label of a task.

    known: (N,) samples that it judges. measure: built only where a value is given. scored: risks and outcomes of the
    known samples, where curves can be drawn.
    """

    cell: Cell
    known: NDArray[np.bool_]
    metrics: tuple[MetricName, ...]
    measure: Callable[[], Measure]
    scored: tuple[Floats, Floats] | None = None


def predicted_shape(plan: TaskPlan) -> tuple[int, ...]:
    """Shape of one sample's prediction, as `Head.predict` says.

    Of a segmentation (structures, 2): voxels predicted, and those of them that are right; its targets (structures,)
    are voxels drawn.
    """
    match plan.type:
        case "survival":
            return (1,) if plan.survival_model == "cox" else (plan.bins,)
        case "competing":
            return (plan.bins, len(plan.labels))
        case "segmentation":
            return (len(plan.labels), 2)
        case _:
            return (max(len(plan.labels), 1),)


def parts_of(plan: TaskPlan, rows: Rows) -> list[Part]:
    """The labels of a task in the order of `TaskPlan.told`."""
    return _PARTS[plan.type](plan, rows)


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
            metrics=metrics_of("regression"),
            measure=partial(
                Numbers.of, predicted[known], rows.targets[known, 0], rows.patients[known], cohort=rows.cohort
            ),
        )
    ]


def _survival(plan: TaskPlan, rows: Rows) -> list[Part]:
    """Harrell's C of the risk by the horizon, then the AUC by each day of the plan, of the risk by then."""
    known = rows.followed
    time, event, patients = rows.targets[known, 0], rows.targets[known, 1] == 1, rows.patients[known]
    last = rows.predictions[:, -1]
    happened = event & (time <= plan.horizon)
    days = sorted({0.0, *plan.told_at, plan.horizon})
    between = [happened & (time > a) & (time <= b) for a, b in pairwise(days)]
    small = tell_small([*between, ~happened], patients)
    ordered = Part(
        cell=rows.cell("", known, last, outcome=happened.astype(np.float64), defined_by=(1,)),
        known=known,
        metrics=("harrell_c",),
        measure=partial(Concordance.of, last[known], np.minimum(time, plan.horizon), happened, patients),
    )
    parts = [ordered]
    for label, day in zip(plan.told[1:], plan.told_at, strict=True):
        risk, outcome = risk_at(rows.predictions, day=day, edges=plan.edges), outcome_by(day, time=time, event=event)
        parts.append(
            Part(
                cell=rows.cell(label, known, risk, outcome=outcome, gives_away=small and day < plan.horizon),
                known=known,
                metrics=("uno_auc",),
                measure=partial(TimedRanking.of, risk[known], time, event, patients, day=day),
            )
        )
    return parts


def _competing(plan: TaskPlan, rows: Rows) -> list[Part]:
    """Harrell's C of each cause's incidence by the horizon; patients with another cause stay at risk for ever."""
    known = rows.followed
    time, cause, patients = rows.targets[known, 0], rows.targets[known, 1], rows.patients[known]
    cause = np.where(time <= plan.horizon, cause, 0.0)
    small = tell_small([cause == number for number in range(1 + len(plan.labels))], patients)
    parts = []
    for number, label in enumerate(plan.told, start=1):
        risk, mine = rows.predictions[:, -1, number - 1], cause == number
        until = np.where(mine | (cause == 0), np.minimum(time, plan.horizon), np.inf)
        parts.append(
            Part(
                cell=rows.cell(label, known, risk, outcome=mine.astype(np.float64), defined_by=(1,), gives_away=small),
                known=known,
                metrics=("harrell_c",),
                measure=partial(Concordance.of, risk[known], until, mine, patients),
            )
        )
    return parts


def _structures(plan: TaskPlan, rows: Rows) -> list[Part]:
    """Each structure, in the patients in whom somebody drew and there is any of it, drawn or predicted."""
    parts = []
    for c, label in enumerate(plan.told):
        guess, right, drawn = (*rows.predictions[:, c].T, rows.targets[:, c])
        voxels = np.bincount(rows.patients, weights=np.where(rows.mask[:, c], guess + drawn, 0), minlength=rows.cohort)
        known = rows.mask[:, c] & (voxels > 0)[rows.patients]
        parts.append(
            Part(
                cell=rows.cell(label, known, guess),
                known=known,
                metrics=metrics_of("segmentation"),
                measure=partial(
                    Masks.of, guess[known], right[known], drawn[known], rows.patients[known], cohort=rows.cohort
                ),
            )
        )
    return parts


_PARTS: Mapping[TaskType, Callable[[TaskPlan, Rows], list[Part]]] = {
    "binary": _labels,
    "multilabel": _labels,
    "multiclass": _classes,
    "regression": _number,
    "survival": _survival,
    "competing": _competing,
    "segmentation": _structures,
}
