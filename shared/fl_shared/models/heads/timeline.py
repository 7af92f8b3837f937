"""M-PRTM's risk timeline: the risk at the plan's windows, its bands, and which of several events comes to the fore.

The paper shows three bands a window and defines nothing (facts section 2.4); here all is read off the predicted
curves of `Head.predict` (survival: hazard, Weibull; competing risks).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_shared.study import TIMED, TaskPlan

Floats = NDArray[np.floating]
LOW, MIDDLE, HIGH = 0, 1, 2
NONE = -1


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """risk (N, W), or (N, W, causes), by the end of each window, and its band (int8): 0 low, 1 middle, 2 high."""

    risk: Floats
    band: NDArray[np.int8]


def timeline(task: TaskPlan, predicted: Floats) -> Timeline:
    """The timeline of a task.

    Args:
        task: survival or competing; its edges, windows and bands.
        predicted: what its head predicts: (N, bins) or (N, bins, causes).

    Raises:
        ValueError: the task has no curve (Cox tells a relative hazard only), or the shape does not fit.
    """
    if task.type not in TIMED or task.head == "survival_cox":
        raise ValueError(f"a task with head '{task.head}' predicts no risk over time")
    if predicted.shape[2:] != ((len(task.labels),) if task.type == "competing" else ()):
        raise ValueError(f"predicted {predicted.shape} does not fit a {task.type} task")
    risk = risk_at(predicted, edges=task.edges, days=task.windows)
    return Timeline(risk=risk, band=bands(risk, limits=task.bands))


def risk_at(risk: Floats, *, edges: Sequence[float], days: Sequence[float]) -> Floats:
    """Risk (N, W, …) by ``days``, from the risk (N, bins, …) by ``edges``: linear between them, 0 on day 0.

    Raises:
        ValueError: the shape does not fit, or a day lies before 0 or behind the last edge.
    """
    if risk.ndim < 2 or risk.shape[1] != len(edges):
        raise ValueError(f"risk {risk.shape}: expected (N, {len(edges)}, …)")
    asked = np.asarray(days, dtype=np.float64)
    if not ((asked >= 0) & (asked <= edges[-1])).all():
        raise ValueError(f"days {list(days)} do not lie between 0 and {edges[-1]:g}")
    ends = np.concatenate([[0.0], edges])
    right = np.searchsorted(ends[1:], asked) + 1
    share = (asked - ends[right - 1]) / (ends[right] - ends[right - 1])
    share = share.astype(risk.dtype).reshape(-1, *[1] * (risk.ndim - 2))
    whole = np.concatenate([np.zeros_like(risk[:, :1]), risk], axis=1)
    found: Floats = (1 - share) * whole[:, right - 1] + share * whole[:, right]
    return found


def bands(risk: Floats, *, limits: tuple[float, float]) -> NDArray[np.int8]:
    """`LOW` below the first limit, `HIGH` above the second, else `MIDDLE`; the limits themselves are `MIDDLE`.

    Raises:
        ValueError: a risk is not a number, which must not pass for low.
    """
    if not np.isfinite(risk).all():
        raise ValueError("a risk is not a finite number")
    low, high = np.asarray(limits, dtype=risk.dtype)  # so that a limit written 0.3 equals a risk of 0.3 in float32
    found: NDArray[np.int8] = (risk >= low).astype(np.int8) + (risk > high).astype(np.int8)
    return found


def within(risk: Floats) -> Floats:
    """Probability (N, W, …) that the event falls into each window, after the one before, from `risk_at`'s answer."""
    return np.diff(risk, axis=1, prepend=np.zeros_like(risk[:, :1]))


def dominant(risk: Floats) -> NDArray[np.int64]:
    """Number (N, W) of the event most probable within each window, such as worsening (0) against recovery (1).

    Cumulative curves would let an early event dominate every later window; so what counts is each window's own part.

    Args:
        risk: (N, W, E) by the end of each window: the causes of a competing task, or the risks of several survival
            tasks, stacked on the last axis.

    Returns:
        The event's number; of equals the first; `NONE` where no event has any probability.

    Raises:
        ValueError: a risk is not a number.
    """
    if not np.isfinite(risk).all():
        raise ValueError("a risk is not a finite number")
    parts = within(risk)
    return np.where((parts > 0).any(axis=2), parts.argmax(axis=2), NONE)
