"""Measures of predicted risks (discrimination, calibration), numbers (errors, R², kappa), masks (Dice, HD95)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.bootstrap import Metrics
from fl_shared.metrics.calibration import Calibration, by_patient
from fl_shared.metrics.called import Called
from fl_shared.metrics.discrimination import Ranking

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Risks:
    """Predicted risks (n,) of an outcome that is 0 or 1."""

    ranking: Ranking
    event_patients: Integers  # (P,) patient of each event, in the ranking's order
    other_patients: Integers  # (Q,)
    called: Called
    calibration: Calibration

    @classmethod
    def of(cls, scores: Floats, targets: Floats, patients: Integers, *, cohort: int) -> Self:
        """``patients`` (n,) are numbers below ``cohort``."""
        ranking = Ranking.of(scores, targets)
        return cls(
            ranking=ranking,
            event_patients=patients[ranking.events],
            other_patients=patients[ranking.others],
            called=Called.of(scores, targets, patients, cohort=cohort),
            calibration=Calibration.of(scores, targets, patients, cohort=cohort),
        )

    def metrics(self, weights: Integers) -> Metrics:
        """AUROC, average precision, sensitivity, accuracy, F1 and calibration, each (b,), under ``weights`` (b, K)."""
        chosen = weights[:, self.event_patients], weights[:, self.other_patients]
        auroc, auprc, sensitivity = self.ranking.ranked(*chosen)
        ranked: Metrics = {"auroc": auroc, "auprc": auprc, "sensitivity_at_90": sensitivity}
        return {**ranked, **self.called.metrics(weights), **self.calibration.metrics(weights)}


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Predicted numbers (n,).

    Kappa (Cohen, Psychol Bull 1968) is of the classes between ``cuts``, a class further away counting one more: 1 less
    the mean distance of predicted and true class over that of a class drawn from each side by itself.
    """

    errors: Floats  # (n,) absolute, ascending
    patients: Integers  # (n,) in that order
    sums: Floats  # (K, 5) samples, absolute and squared errors, targets less their mean, and its square, a patient
    classes: Floats  # (K, 1 + 2 C) distances of classes, predicted and true ones, a patient

    @classmethod
    def of(
        cls, predicted: Floats, targets: Floats, patients: Integers, *, cohort: int, cuts: Sequence[float] = ()
    ) -> Self:
        """``patients`` (n,) are numbers below ``cohort``; ``cuts`` rise, a number on one belongs to the upper class."""
        error, centred = np.abs(predicted - targets), targets - targets.mean()
        order = np.argsort(error, kind="stable")
        parts = (np.ones_like(error), error, error**2, centred, centred**2)
        guess, truth = (np.searchsorted(np.asarray(cuts), each, side="right") for each in (predicted, targets))
        number = np.arange(len(cuts) + 1)[:, None]
        classes = (np.abs(guess - truth), *(guess == number), *(truth == number))
        return cls(
            errors=error[order],
            patients=patients[order],
            sums=by_patient(patients, *parts, cohort=cohort),
            classes=by_patient(patients, *classes, cohort=cohort),
        )

    def metrics(self, weights: Integers) -> Metrics:
        """Mean and median absolute error, R² and kappa, each (b,), under ``weights`` (b, K)."""
        count, absolute, squares, total, total_squares = (weights.astype(np.float64) @ self.sums).T
        count = _positive(count)
        variation = total_squares - total**2 / count
        rounding = 1e-12 * total_squares  # what is left of a target that does not vary
        return {
            "mae": absolute / count,
            "medae": self._median(weights),
            "r2": 1.0 - squares / np.where(variation > rounding, variation, np.nan),
            "kappa": self._kappa(weights),
        }

    def _kappa(self, weights: Integers) -> Floats:
        """NaN where all samples, predicted and true, are of one class."""
        apart, sides = np.split(weights.astype(np.float64) @ self.classes, [1], axis=1)
        guess, truth = np.split(sides, 2, axis=1)
        number = np.arange(guess.shape[1])
        by_chance = ((guess @ np.abs(number[:, None] - number)) * truth).sum(axis=1) / _positive(truth.sum(axis=1))
        return 1.0 - apart[:, 0] / _positive(by_chance)

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
    A patient without a voxel in either is left out; with voxels in only one of them Dice is 0. HD95 is the mean over a
    patient's drawn frames, then over patients (`fl_shared.metrics.segmentation`).
    """

    dice: Floats  # (K,) of each patient, NaN where left out
    hd95: Floats  # (K,) mm

    @classmethod
    def of(cls, predicted: Floats, drawn: Floats, patients: Integers, *, cohort: int) -> Self:
        """Of a structure in n samples.

        Args:
            predicted: (n, 4) voxels predicted, those of them that are right; sum of HD95 in mm, and of how many frames.
            drawn: (n,) voxels drawn.
            patients: (n,) numbers below ``cohort``.
            cohort: patients.
        """
        guess, both, far, frames, truth = by_patient(patients, *predicted.T, drawn, cohort=cohort).T
        return cls(dice=2.0 * both / _positive(guess + truth), hd95=far / _positive(frames))

    def metrics(self, weights: Integers) -> Metrics:
        """Mean Dice and HD95, each (b,), under ``weights`` (b, K)."""
        return {"dice": _mean(self.dice, weights), "hd95": _mean(self.hd95, weights)}


def _mean(values: Floats, weights: Integers) -> Floats:
    counted = np.isfinite(values)
    floats = weights[:, counted].astype(np.float64)
    mean: Floats = floats @ values[counted] / _positive(floats.sum(axis=1))
    return mean


def _positive(total: Floats) -> Floats:
    return np.where(total > 0, total, np.nan)
