"""Whether predicted risks are true: Brier score, calibration in the large, slope, expected error, bins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_shared.metrics.table import MetricName

Floats = NDArray[np.float64]
GROUPS = 10  # of the expected calibration error
LOGIT = 30.0  # beyond it a risk is 0 or 1 to every digit
STEPS, CONVERGED = 50, 1e-10  # of Newton's method


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Predicted risks (n,) against outcomes, as sums a patient.

    expected, observed: (K,) sums of risks and of events. gaps: (K, groups) sums of risk less outcome, in groups of
    about equal size by risk. slope: of the logistic regression of the outcomes on the logits (Cox 1958), NaN where
    there is none. scores: (K, 2), information: (K, 3) of that regression at its solution, so that a resample's slope
    is one Newton step from it (the one-step bootstrap: Shao and Tu 1995, section 5.4.7).
    """

    samples: Floats
    expected: Floats
    observed: Floats
    gaps: Floats
    slope: float
    scores: Floats
    information: Floats

    @classmethod
    def of(cls, risks: Floats, targets: Floats, patients: NDArray[np.int64], *, cohort: int) -> Self:
        """``patients`` (n,) are numbers below ``cohort``."""
        logits = _logit(risks)
        intercept, slope = logistic_fit(logits, targets)
        fitted = 1 / (1 + np.exp(-np.clip(intercept + slope * logits, -LOGIT, LOGIT)))
        error, weight = targets - fitted, fitted * (1 - fitted)
        group = np.searchsorted(np.quantile(risks, np.linspace(0, 1, GROUPS + 1)[1:-1]), risks, side="left")
        gaps = [np.where(group == g, risks - targets, 0.0) for g in range(GROUPS)]
        return cls(
            samples=by_patient(patients, np.ones_like(risks), cohort=cohort)[:, 0],
            expected=by_patient(patients, risks, cohort=cohort)[:, 0],
            observed=by_patient(patients, targets, cohort=cohort)[:, 0],
            gaps=by_patient(patients, *gaps, cohort=cohort),
            slope=slope,
            scores=by_patient(patients, error, error * logits, cohort=cohort),
            information=by_patient(patients, weight, weight * logits, weight * logits**2, cohort=cohort),
        )

    def metrics(self, weights: NDArray[Any]) -> Mapping[MetricName, Floats]:
        """Expected over observed, slope and expected calibration error, each (b,), under ``weights`` (b, K)."""
        w = weights.astype(np.float64)
        count, observed = w @ self.samples, w @ self.observed
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.abs(w @ self.gaps).sum(axis=1) / np.where(count > 0, count, np.nan)
            ratio = (w @ self.expected) / np.where(observed > 0, observed, np.nan)
            (u, v), (a, b, c) = (w @ self.scores).T, (w @ self.information).T
            slope = self.slope + (a * v - b * u) / (a * c - b * b)
        several = (observed > 0) & (observed < count)
        return {
            "expected_observed": ratio,
            "calibration_slope": np.where(several & np.isfinite(slope), slope, np.nan),
            "ece": error,
        }


def _logit(risks: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        logits: Floats = np.clip(np.log(risks) - np.log1p(-risks), -LOGIT, LOGIT)
    return logits


def logistic_fit(logits: Floats, targets: Floats) -> tuple[float, float]:
    """Intercept and slope of the outcomes (n,) on the logits, by Newton's method; NaN where there is no solution.

    There is none where all logits are equal, all outcomes are, or the logits separate the outcomes.
    """
    centre = logits.mean()
    x, beta = np.stack([np.ones_like(logits), logits - centre]), np.zeros(2)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-np.clip(beta @ x, -LOGIT, LOGIT)))
        score, information = x @ (targets - p), (x * (p * (1 - p))) @ x.T
        if not np.linalg.cond(information) < 1 / CONVERGED:
            break
        step = np.linalg.solve(information, score)
        beta = beta + step * min(1.0, 2.0 / np.abs(step).max(initial=1e-300))
        if np.abs(step).max() < CONVERGED:
            return float(beta[0] - beta[1] * centre), float(beta[1])
    return np.nan, np.nan


def by_patient(patients: NDArray[np.int64], *values: Floats, cohort: int) -> Floats:
    """Sums (K, len(values)) of samples' values (n,) a patient."""
    return np.stack([np.bincount(patients, weights=v, minlength=cohort) for v in values], axis=1).astype(np.float64)


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
