"""Which curves a task can have: read by the gate of a site and by the coordinator."""

from __future__ import annotations

from fl_shared.metrics.table import METRICS
from fl_shared.metrics.timeline import BANDS
from fl_shared.results import Curve
from fl_shared.study import TIMED, TaskPlan

MAX_POINTS = 101


def curve_fits(curve: Curve, plan: TaskPlan) -> bool:
    """Whether a curve's kind, label, day, number of points and values are such as a task of this plan can have."""
    if not 1 <= len(curve.x) == len(curve.y) <= MAX_POINTS:
        return False
    if not all(0.0 <= value <= 1.0 for value in (*curve.x, *curve.y)):
        return False
    if curve.kind != "bands":
        return plan.type in METRICS["auroc"].types and curve.label in plan.told and curve.day is None
    labels = (f"{curve.day:g}d",) if plan.type == "survival" and curve.day is not None else plan.labels
    rises = list(curve.x) == sorted(curve.x)
    timed = plan.type in TIMED and curve.day in plan.told_at and curve.label in labels
    return timed and rises and len(curve.x) == len(BANDS)
