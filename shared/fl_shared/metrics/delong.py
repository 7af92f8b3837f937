"""Variance of AUROCs without resampling, alone or of two models on the same patients (DeLong, Biometrics 1988).

Patients with several samples are clusters (Obuchowski, Biometrics 1997); with one sample each this is DeLong's
estimate exactly. Ties count one half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Areas:
    """AUROCs (2,) of two models and their covariance (2, 2); NaN where they are not defined."""

    aurocs: Floats
    covariance: Floats

    @property
    def difference(self) -> float:
        """First less second."""
        return float(self.aurocs[0] - self.aurocs[1])

    @property
    def variance(self) -> float:
        """Of the difference."""
        c = self.covariance
        return max(float(c[0, 0] + c[1, 1] - 2 * c[0, 1]), 0.0) if np.isfinite(c).all() else math.nan

    @property
    def p(self) -> float:
        """Two-sided, of no difference (normal); 1 where the models rank alike, NaN where it is not defined."""
        if not math.isfinite(self.variance):
            return math.nan
        if self.variance <= 1e-24:  # rounding of equal ranks
            return 1.0 if abs(self.difference) < 1e-12 else 0.0
        return float(2 * ndtr(-abs(self.difference) / math.sqrt(self.variance)))


def delong(scores_a: ArrayLike, scores_b: ArrayLike, targets: ArrayLike, patients: ArrayLike) -> Areas:
    """Compare two models on the same samples.

    Args:
        scores_a: (n,) of the first model.
        scores_b: (n,) of the second one.
        targets: (n,) 0 or 1.
        patients: (n,) any integers; samples of one patient depend on one another.

    Returns:
        Their areas; without events, or without others, NaN; the covariance needs two patients of each kind.
    """
    event = np.asarray(targets) == 1
    cluster = np.unique(np.asarray(patients), return_inverse=True)[1]
    count = int(cluster.max(initial=-1)) + 1
    m, n = int(event.sum()), int((~event).sum())
    nothing = Areas(aurocs=np.full(2, np.nan), covariance=np.full((2, 2), np.nan))
    if not m or not n:
        return nothing
    scores = [np.asarray(each, dtype=np.float64) for each in (scores_a, scores_b)]
    placed = [_placements(each[event], each[~event]) for each in scores]
    areas = np.array([of_events.mean() for of_events, _ in placed])
    of_event, of_other = (  # each patient's sum of placements less their mean, (2, clusters)
        np.stack([np.bincount(cluster[side], weights=each, minlength=count) for each in parts])
        for side, parts in (
            (event, [above - area for (above, _), area in zip(placed, areas, strict=True)]),
            (~event, [below - area for (_, below), area in zip(placed, areas, strict=True)]),
        )
    )
    with_events, with_others = len(np.unique(cluster[event])), len(np.unique(cluster[~event]))
    if min(with_events, with_others) < 2:
        return Areas(aurocs=areas, covariance=nothing.covariance)
    events = with_events / (with_events - 1) * (of_event @ of_event.T) / m**2
    others = with_others / (with_others - 1) * (of_other @ of_other.T) / n**2
    both = count / (count - 1) * (of_event @ of_other.T) / (m * n)
    return Areas(aurocs=areas, covariance=events + others + both + both.T)


def _placements(high: Floats, low: Floats) -> tuple[Floats, Floats]:
    """Share of the others below each event's score, and of the events above each other's; ties count one half."""
    low_sorted, high_sorted = np.sort(low), np.sort(high)
    below = np.searchsorted(low_sorted, high, side="left") + np.searchsorted(low_sorted, high, side="right")
    upto = np.searchsorted(high_sorted, low, side="left") + np.searchsorted(high_sorted, low, side="right")
    return below / (2.0 * len(low)), 1.0 - upto / (2.0 * len(high))
