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

    Samples with equal scores share a bin. A bin of fewer than ``min_patients`` patients is merged with the next one
    (the last with the one before), so that every point stands for a group.

    Returns:
        Two arrays (K,), K <= ``bins``; empty when the whole cohort is too small.
    """
    score, target, patient = np.asarray(scores, np.float64), np.asarray(targets, np.float64), np.asarray(patients)
    edges = np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)[1:-1]))
    bin_of = np.searchsorted(edges, score, side="left")
    groups: list[NDArray[np.intp]] = []
    pending = np.empty(0, dtype=np.intp)
    for index in range(len(edges) + 1):
        pending = np.concatenate([pending, np.flatnonzero(bin_of == index)])
        if len(np.unique(patient[pending])) >= min_patients:
            groups.append(pending)
            pending = pending[:0]
    if not groups:
        return np.empty(0), np.empty(0)
    groups[-1] = np.concatenate([groups[-1], pending])
    return np.array([score[g].mean() for g in groups]), np.array([target[g].mean() for g in groups])
