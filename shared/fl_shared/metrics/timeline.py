"""M-PRTM's risk timeline: at each window of the plan, three bands of predicted risk and what came of them.

The paper shows three bands a window and defines nothing; here all is read off the predicted
curves of `Head.predict` (survival: hazard, Weibull; competing risks).

A point stands for 10 patients or more whose outcome by the window is known. No number of patients leaves: with it, the
bands of two windows would tell by subtraction how many moved between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.risk_groups import merged

Floats = NDArray[np.float64]
LOW, MIDDLE, HIGH = BANDS = (0, 1, 2)


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
    share = share.reshape(-1, *[1] * (risk.ndim - 2))
    whole = np.concatenate([np.zeros_like(risk[:, :1]), risk], axis=1)
    found: Floats = (1 - share) * whole[:, right - 1] + share * whole[:, right]
    return found


def bands_of(risk: Floats, *, limits: tuple[float, float]) -> NDArray[np.int8]:
    """`LOW` below the first limit, `HIGH` above the second, else `MIDDLE`; the limits themselves are `MIDDLE`.

    Raises:
        ValueError: a risk is not a number, which must not pass for low.
    """
    if not np.isfinite(risk).all():
        raise ValueError("a risk is not a finite number")
    low, high = limits
    found: NDArray[np.int8] = (risk >= low).astype(np.int8) + (risk > high).astype(np.int8)
    return found


@dataclass(frozen=True, kw_only=True)
class Course:
    """What became of n samples: time (n,) until follow-up ended, cause (n,) what ended it, 0 being none; patients (n,).

    An event comes before a censoring at the same time.
    """

    time: Floats
    cause: NDArray[np.int64]
    patients: NDArray[np.integer]

    def outcome(self, day: float, *, of: int = 1) -> Floats:
        """(n,): 1 where the cause ``of`` happened by ``day``, 0 where it had not or another had, NaN where unknown."""
        known = (self.time >= day) | (self.cause > 0)
        return np.where(known, (self.cause == of) & (self.time <= day), np.nan)

    def incidence(self, day: float, *, of: int = 1) -> float:
        """Share of patients in whom a cause happens by ``day``: Aalen-Johansen, of a single cause 1 - Kaplan-Meier.

        Censoring is taken to be independent; 1 - Kaplan-Meier with other causes censored would tell too much.
        """
        return float(self.incidences((day,), of=of)[0])

    def incidences(self, days: Sequence[float], *, of: int = 1) -> Floats:
        """The same by each of ``days`` (D,)."""
        happened = self.cause > 0
        times, at = np.unique(self.time[happened], return_inverse=True)
        at_risk = len(self.time) - np.searchsorted(np.sort(self.time), times, side="left")
        any_ = np.bincount(at, minlength=len(times)) / at_risk
        mine = np.bincount(at, weights=self.cause[happened] == of, minlength=len(times)) / at_risk
        free_before = np.cumprod(np.concatenate([[1.0], 1.0 - any_]))[:-1]
        upto = np.concatenate([[0.0], np.cumsum(free_before * mine)])
        found: Floats = upto[np.searchsorted(times, np.asarray(days), side="right")]
        return found

    def bands(
        self, risk: Floats, *, day: float, of: int = 1, limits: tuple[float, float], min_patients: int
    ) -> tuple[Floats, Floats]:
        """Mean predicted and observed risk by ``day`` of each band of the predicted ``risk`` (n,).

        A band of fewer than ``min_patients`` patients whose outcome is known is told together with the next one (the
        last with the one before): both then have the same numbers.

        Returns:
            Two arrays (3,); empty when all together are too few.
        """
        band, known = bands_of(risk, limits=limits), np.isfinite(self.outcome(day, of=of))
        x, y = np.empty(len(BANDS)), np.empty(len(BANDS))
        groups = merged(band[known], self.patients[known], bins=len(BANDS), min_patients=min_patients)
        for group in groups:
            inside = np.isin(band, group)
            x[group] = risk[inside].mean()
            y[group] = self.of(inside).incidence(day, of=of)
        return (x, y) if groups else (np.empty(0), np.empty(0))

    def of(self, rows: NDArray[np.bool_]) -> Course:
        """Some of the samples."""
        return Course(time=self.time[rows], cause=self.cause[rows], patients=self.patients[rows])
