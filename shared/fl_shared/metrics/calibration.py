"""Whether predicted risks are true: Brier score and calibration bins."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def brier(scores: ArrayLike, targets: ArrayLike) -> float:
    """Mean squared difference of predicted risk and outcome (Brier, Mon Weather Rev 1950)."""
    return float(np.mean(np.square(np.asarray(scores, np.float64) - np.asarray(targets, np.float64))))


def calibration_bins(
    scores: ArrayLike, targets: ArrayLike, patients: ArrayLike, *, bins: int = 10, min_patients: int = 10
) -> tuple[Floats, Floats]:
    """Mean predicted risk and observed share of events in quantile bins.

    Samples with equal scores share a bin. Small bins are `merged`, so that every point stands for a group.

    Returns:
        Two arrays (K,), K <= ``bins``; empty when the whole cohort is too small.
    """
    score, target, patient = np.asarray(scores, np.float64), np.asarray(targets, np.float64), np.asarray(patients)
    edges = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1]))
    bin_of = np.searchsorted(edges, score, side="left")
    groups = [np.isin(bin_of, g) for g in merged(bin_of, patient, bins=len(edges) + 1, min_patients=min_patients)]
    return np.array([score[g].mean() for g in groups]), np.array([target[g].mean() for g in groups])


def merged(
    bin_of: NDArray[np.integer], patients: NDArray[np.integer], *, bins: int, min_patients: int
) -> list[list[int]]:
    """Bins that are told together: one of fewer than ``min_patients`` patients with the next, the last with the former.

    Returns:
        Groups of bins in order, all bins once; none when all together are too small.
    """
    groups: list[list[int]] = []
    pending: list[int] = []
    for bin_ in range(bins):
        pending.append(bin_)
        if len(np.unique(patients[np.isin(bin_of, pending)])) >= min_patients:
            groups.append(pending)
            pending = []
    if groups:
        groups[-1] += pending
    return groups
