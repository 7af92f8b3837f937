"""Which curves a task can have: read by the gate of a site and by the coordinator."""

from __future__ import annotations

from itertools import pairwise

from fl_shared.metrics.disclosure import MIN_CELL
from fl_shared.metrics.incidence import days_of, group_names
from fl_shared.metrics.risk_groups import MOST
from fl_shared.metrics.table import METRICS
from fl_shared.metrics.timeline import BANDS
from fl_shared.results import Curve
from fl_shared.study import TIMED, TaskPlan

MAX_POINTS = 101


def curve_fits(curve: Curve, plan: TaskPlan) -> bool:
    """Whether a curve's kind, label, day, group, points and counts are such as a task of this plan can have."""
    if not 1 <= len(curve.x) == len(curve.y) <= MAX_POINTS:
        return False
    if curve.kind == "incidence":
        return _incidence_fits(curve, plan)
    if curve.group or not all(0.0 <= value <= 1.0 for value in curve.x):
        return False
    if curve.kind == "decision":
        return _risky(curve, plan) and _decision_fits(curve)
    if not all(0.0 <= value <= 1.0 for value in curve.y):
        return False
    if curve.kind == "risks":
        large = len(curve.counts) == len(curve.x) <= MOST and all(c is not None and c >= MIN_CELL for c in curve.counts)
        return _risky(curve, plan, counts=True) and large and list(curve.x) == sorted(curve.x)
    if curve.kind != "bands":
        return _risky(curve, plan)
    labels = (f"{curve.day:g}d",) if plan.type == "survival" and curve.day is not None else plan.labels
    rises = list(curve.x) == sorted(curve.x)
    timed = plan.type in TIMED and curve.day in plan.told_at and curve.label in labels
    return timed and rises and len(curve.x) == len(BANDS) and not curve.counts


def _risky(curve: Curve, plan: TaskPlan, *, counts: bool = False) -> bool:
    """Whether it is of a predicted risk, and has counts of patients only where it must."""
    told = plan.type in METRICS["auroc"].types and curve.label in plan.told and curve.day is None
    return told and bool(curve.counts) == counts


def _decision_fits(curve: Curve) -> bool:
    """Thresholds rise; a net benefit is 1 at most, and no less than that of calling everybody without an event."""
    inside = len(curve.x) < MOST and curve.x[0] > 0 and curve.x[-1] < 1 and _rises(curve.x)
    return inside and all(-x / (1 - x) - 1e-3 <= y <= 1.0 for x, y in zip(curve.x, curve.y, strict=True))


def _incidence_fits(curve: Curve, plan: TaskPlan) -> bool:
    """From nobody on day 0 to the horizon, never falling; numbers at risk never rise and are none below `MIN_CELL`."""
    days = days_of(plan) if plan.type in TIMED and plan.survival_model != "cox" else ()
    labels = ("",) if plan.type == "survival" else plan.labels
    placed = curve.label in labels and curve.day is None and curve.group in group_names()
    if not placed or not set(curve.x) <= set(days) or not _rises(curve.x):
        return False
    if (curve.x[0], curve.x[-1], curve.y[0]) != (days[0], days[-1], 0.0) or len(curve.counts) != len(curve.x):
        return False
    told = [count for count in curve.counts if count is not None]
    falls = told == sorted(told, reverse=True) and all(count >= MIN_CELL for count in told)
    return falls and list(curve.y) == sorted(curve.y) and curve.y[-1] <= 1.0


def _rises(values: tuple[float, ...]) -> bool:
    return all(a < b for a, b in pairwise(values))
