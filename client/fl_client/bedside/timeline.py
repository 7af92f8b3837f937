"""The risk timeline of a patient, as M-PRTM shows it: a band of risk at each window, and when to see them again.

The paper (figure 2e) shows three bands a window and a follow-up suggestion, and defines neither. Here a band is the
plan's (`TaskPlan.bands`) of the predicted risk by that day, and the suggestion is the class that the model gives the
highest probability in a multiclass task named ``follow_up``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fl_client.bedside.targets import Target, number
from fl_shared.metrics.timeline import bands_of
from fl_shared.study import Study

FOLLOW_UP = "follow_up"
BANDS = ("low", "middle", "high")


@dataclass(frozen=True, kw_only=True)
class Window:
    """The risk by a day and its band."""

    target: Target
    day: float
    risk: float
    band: str


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One event over the windows; limits: where the bands meet."""

    title: str
    limits: tuple[float, float]
    windows: tuple[Window, ...]


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """What the model suggests, and the probability of each class."""

    task: str
    suggested: str
    shares: Mapping[str, float]


def lanes_of(study: Study, scores: Mapping[Target, float]) -> tuple[Lane, ...]:
    """A lane for every event over time (and every competing cause), in the study's order."""
    found: dict[tuple[str, str], list[Window]] = {}
    for target, score in scores.items():
        if target.day is not None:
            risk = number(score, target)
            band = BANDS[int(bands_of(np.array([risk]), limits=study.tasks[target.task].bands)[0])]
            window = Window(target=target, day=target.day, risk=risk, band=band)
            found.setdefault((target.task, target.label), []).append(window)
    return tuple(
        Lane(
            title=", ".join(part.replace("_", " ") for part in (task, label or "event") if part),
            limits=study.tasks[task].bands,
            windows=tuple(sorted(windows, key=lambda w: w.day)),
        )
        for (task, label), windows in found.items()
    )


def suggestion_of(study: Study, scores: Mapping[Target, float]) -> Suggestion | None:
    """The follow-up suggestion, where the study has such a task."""
    plan = study.tasks.get(FOLLOW_UP)
    if plan is None or plan.type != "multiclass":
        return None
    shares = {t.label: number(score, t) for t, score in scores.items() if t.task == FOLLOW_UP}
    return Suggestion(task=FOLLOW_UP, suggested=max(shares, key=lambda label: shares[label]), shares=shares)
