"""Measures of predicted risks (discrimination, Brier score, calibration), numbers (errors, R²) and masks (Dice)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.bootstrap import Metrics
from fl_shared.metrics.calibration import Calibration, by_patient
from fl_shared.metrics.discrimination import Ranking

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Risks:
    """Predicted risks (n,) of an outcome that is 0 or 1."""

    ranking: Ranking
    event_patients: Integers  # (P,) patient of each event, in the ranking's order
    other_patients: Integers  # (Q,)
    sums: Floats  # (K, 2) samples and squared errors of each patient
    calibration: Calibration

    @classmethod
    def of(cls, scores: Floats, targets: Floats, patients: Integers, *, cohort: int) -> Self:
        """``patients`` (n,) are numbers below ``cohort``."""
        ranking = Ranking.of(scores, targets)
        return cls(
            ranking=ranking,
            event_patients=patients[ranking.events],
            other_patients=patients[ranking.others],
            sums=by_patient(patients, np.ones_like(scores), np.square(scores - targets), cohort=cohort),
            calibration=Calibration.of(scores, targets, patients, cohort=cohort),
        )

    def metrics(self, weights: Integers) -> Metrics:
        """AUROC, average precision, Brier score and calibration, each (b,), under ``weights`` (b, K)."""
        auroc, auprc = self.ranking.auroc_ap(weights[:, self.event_patients], weights[:, self.other_patients])
        count, squares = (weights.astype(np.float64) @ self.sums).T
        calibrated = self.calibration.metrics(weights)
        return {"auroc": auroc, "auprc": auprc, "brier": squares / _positive(count), **calibrated}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Predicted numbers (n,)."""

    errors: Floats  # (n,) absolute, ascending
    patients: Integers  # (n,) in that order
    sums: Floats  # (K, 5) samples, absolute and squared errors, targets less their mean, and its square, a patient

    @classmethod
    def of(cls, predicted: Floats, targets: Floats, patients: Integers, *, cohort: int) -> Self:
        """``patients`` (n,) are numbers below ``cohort``."""
        error, centred = np.abs(predicted - targets), targets - targets.mean()
        order = np.argsort(error, kind="stable")
        parts = (np.ones_like(error), error, error**2, centred, centred**2)
        return cls(errors=error[order], patients=patients[order], sums=by_patient(patients, *parts, cohort=cohort))

    def metrics(self, weights: Integers) -> Metrics:
        """Mean and median absolute error and R², each (b,), under ``weights`` (b, K)."""
        count, absolute, squares, total, total_squares = (weights.astype(np.float64) @ self.sums).T
        count = _positive(count)
        variation = total_squares - total**2 / count
        rounding = 1e-12 * total_squares  # what is left of a target that does not vary
        return {
            "mae": absolute / count,
            "medae": self._median(weights),
            "r2": 1.0 - squares / np.where(variation > rounding, variation, np.nan),
        }

    def _median(self, weights: Integers) -> Floats:
        """Median error: the mean of the two middle samples, where their number is even."""
        upto = np.cumsum(weights[:, self.patients], axis=1)
        count = upto[:, -1]
        low, high = ((upto < middle[:, None]).sum(axis=1) for middle in ((count + 1) // 2, count // 2 + 1))
        last = len(self.errors) - 1
        middle = (self.errors[np.minimum(low, last)] + self.errors[np.minimum(high, last)]) / 2.0
        return np.where(count > 0, middle, np.nan)


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Voxels of one structure, as drawn and as predicted.

    Dice is 2 |A and B| / (|A| + |B|) over all drawn frames of a patient together, then the mean over patients: a frame
    with little of the structure does not count as much as a full one, a patient with many frames no more than another.
    A patient without a voxel in either is left out; with voxels in only one of them Dice is 0.
    """

    dice: Floats  # (K,) of each patient, NaN where left out

    @classmethod
    def of(cls, predicted: Floats, right: Floats, drawn: Floats, patients: Integers, *, cohort: int) -> Self:
        """Voxels (n,) predicted, predicted and drawn, drawn; ``patients`` (n,) are numbers below ``cohort``."""
        guess, both, truth = by_patient(patients, predicted, right, drawn, cohort=cohort).T
        return cls(dice=2.0 * both / _positive(guess + truth))

    def metrics(self, weights: Integers) -> Metrics:
        """Mean Dice (b,) under ``weights`` (b, K)."""
        counted = np.isfinite(self.dice)
        floats = weights[:, counted].astype(np.float64)
        return {"dice": floats @ self.dice[counted] / _positive(floats.sum(axis=1))}


def _positive(total: Floats) -> Floats:
    return np.where(total > 0, total, np.nan)
