"""Times to an event, of one cause or of several: what is judged of them, their windows, their courses by risk.

Follow-up ends at the horizon: what comes later counts as censored there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.bootstrap import Metrics
from fl_shared.metrics.disclosure import MIN_CELL, Cell, tell_small
from fl_shared.metrics.incidence import courses
from fl_shared.metrics.integrated_brier import PARTS, IntegratedBrier
from fl_shared.metrics.part import Part, Rows, Window
from fl_shared.metrics.survival import ANOTHER, MINE, Concordance, TimedRanking, outcome_by
from fl_shared.metrics.timeline import Course, risk_at
from fl_shared.study import TaskPlan

Floats = NDArray[np.float64]


def survival(plan: TaskPlan, rows: Rows) -> list[Part]:
    """Harrell's C of the risk by the horizon, then the AUC by each day of the plan, of the risk by then."""
    known = rows.followed
    time, event, patients = rows.targets[known, 0], rows.targets[known, 1] == 1, rows.patients[known]
    curve = plan.survival_model != "cox"  # which ranks patients and tells no risk
    last = rows.predictions[:, -1]
    happened = event & (time <= plan.horizon)
    days = sorted({0.0, *plan.told_at, plan.horizon})
    between = [happened & (time > a) & (time <= b) for a, b in pairwise(days)]
    small = tell_small([*between, ~happened], patients)
    course = Course(time=time, cause=event.astype(np.int64), patients=patients)
    ended = Course(time=np.minimum(time, plan.horizon), cause=happened.astype(np.int64), patients=patients)
    ordered = Part(
        cell=rows.cell("", known, rows.predictions, outcome=happened.astype(np.float64), defined_by=(1,)),
        known=known,
        metrics=("harrell_c", "uno_c", "ibs") if curve else ("harrell_c", "uno_c"),
        measure=partial(
            _measure, plan, ended, last[known], rows.predictions[known] if curve else None, cohort=rows.cohort
        ),
        groups=partial(courses, ended, last[known], plan, few=_few(rows)) if curve else None,
    )
    parts = [ordered]
    for label, day in zip(plan.told[1:], plan.told_at, strict=True):
        risk = risk_at(rows.predictions, edges=plan.edges, days=(day,))[:, 0] if curve else last
        outcome = outcome_by(day, time=time, event=event)
        cell = rows.cell(label, known, risk, outcome=outcome, gives_away=small and day < plan.horizon)
        parts.append(
            Part(
                cell=cell,
                known=known,
                metrics=("uno_auc",),
                measure=partial(TimedRanking.of, risk[known], time, event, patients, day=day),
                windows=(_window(plan, rows, cell, course, risk[known], day=day),) if curve else (),
            )
        )
    return parts


def competing(plan: TaskPlan, rows: Rows) -> list[Part]:
    """Harrell's C of each cause's incidence by the horizon; patients with another cause stay at risk for ever."""
    known = rows.followed
    time, cause, patients = rows.targets[known, 0], rows.targets[known, 1], rows.patients[known]
    cause = np.where(time <= plan.horizon, cause, 0.0).astype(np.int64)
    small = tell_small([cause == number for number in range(1 + len(plan.labels))], patients)
    days = sorted({0.0, *plan.told_at, plan.horizon})
    between = [(cause == c) & (time > a) & (time <= b) for c in np.unique(cause[cause > 0]) for a, b in pairwise(days)]
    small_between = small or tell_small(between, patients)
    course = Course(time=time, cause=cause, patients=patients)
    risks = risk_at(rows.predictions, edges=plan.edges, days=plan.told_at)
    parts = []
    for number, label in enumerate(plan.told, start=1):
        risk, mine = rows.predictions[:, -1, number - 1], cause == number
        codes = np.where(cause == 0, 0, np.where(mine, MINE, ANOTHER))
        ended = Course(time=np.minimum(time, plan.horizon), cause=codes, patients=patients)
        windows = []
        for day, by_day in zip(plan.told_at, risks[..., number - 1].T, strict=True):
            hidden = small_between if day < plan.horizon else small
            cell = rows.cell(label, known, by_day, outcome=course.outcome(day, of=number), gives_away=hidden)
            windows.append(_window(plan, rows, cell, course, by_day[known], day=day, of=number))
        parts.append(
            Part(
                cell=rows.cell(label, known, risk, outcome=mine.astype(np.float64), defined_by=(1,), gives_away=small),
                known=known,
                metrics=("harrell_c", "uno_c", "ibs"),
                measure=partial(
                    _measure, plan, ended, risk[known], rows.predictions[known, :, number - 1], cohort=rows.cohort
                ),
                windows=tuple(windows),
                groups=partial(courses, ended, risk[known], plan, few=_few(rows)),
            )
        )
    return parts


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """Of the risk by the horizon, and of the course up to it where one is told."""

    order: Concordance
    course: IntegratedBrier | None

    def metrics(self, weights: NDArray[np.int64]) -> Metrics:
        return {**self.order.metrics(weights), **(self.course.metrics(weights) if self.course else {})}


def _measure(plan: TaskPlan, ended: Course, risk: Floats, by_edge: Floats | None, *, cohort: int) -> _Timed:
    """``risk`` (n,) by the horizon, ``by_edge`` (n, bins) by the plan's edges; the course ends at the horizon."""
    patients = ended.patients.astype(np.int64)
    order, course = Concordance.of(risk, ended.time, ended.cause, patients), None
    if by_edge is not None:
        parts = plan.bins * -(-PARTS // plan.bins)
        days = np.minimum(plan.horizon * np.arange(1, parts + 1) / parts, plan.horizon)
        risks = risk_at(by_edge, edges=plan.edges, days=np.minimum(days, plan.edges[-1]).tolist())
        course = IntegratedBrier.of(risks, ended.time, ended.cause, patients, days=days.tolist(), cohort=cohort)
    return _Timed(order=order, course=course)


def _few(rows: Rows) -> int:
    return max(MIN_CELL, rows.min_patients)


def _window(plan: TaskPlan, rows: Rows, cell: Cell, course: Course, risk: Floats, *, day: float, of: int = 1) -> Window:
    points = partial(course.bands, risk, day=day, of=of, limits=plan.bands, min_patients=_few(rows))
    return Window(day=day, cell=cell, points=points)
