"""Times to an event, of one cause or of several: what is judged of them, and their windows on the risk timeline."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.disclosure import MIN_CELL, Cell, tell_small
from fl_shared.metrics.part import Part, Rows, Window
from fl_shared.metrics.survival import Concordance, TimedRanking, outcome_by
from fl_shared.metrics.timeline import Course, risk_at
from fl_shared.study import TaskPlan

Floats = NDArray[np.float64]


def survival(plan: TaskPlan, rows: Rows) -> list[Part]:
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
    course = Course(time=time, cause=event.astype(np.int64), patients=patients)
    parts = [ordered]
    for label, day in zip(plan.told[1:], plan.told_at, strict=True):
        curve = plan.survival_model != "cox"  # which ranks patients and tells no risk
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
        until = np.where(mine | (cause == 0), np.minimum(time, plan.horizon), np.inf)
        windows = []
        for day, by_day in zip(plan.told_at, risks[..., number - 1].T, strict=True):
            hidden = small_between if day < plan.horizon else small
            cell = rows.cell(label, known, by_day, outcome=course.outcome(day, of=number), gives_away=hidden)
            windows.append(_window(plan, rows, cell, course, by_day[known], day=day, of=number))
        parts.append(
            Part(
                cell=rows.cell(label, known, risk, outcome=mine.astype(np.float64), defined_by=(1,), gives_away=small),
                known=known,
                metrics=("harrell_c",),
                measure=partial(Concordance.of, risk[known], until, mine, patients),
                windows=tuple(windows),
            )
        )
    return parts


def _window(plan: TaskPlan, rows: Rows, cell: Cell, course: Course, risk: Floats, *, day: float, of: int = 1) -> Window:
    few = max(MIN_CELL, rows.min_patients)
    points = partial(course.bands, risk, day=day, of=of, limits=plan.bands, min_patients=few)
    return Window(day=day, cell=cell, points=points)
