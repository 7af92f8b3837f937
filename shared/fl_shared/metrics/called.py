"""Whether patients whose risk is above one half have the outcome: accuracy and F1 of that call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.calibration import by_patient
from fl_shared.metrics.table import MetricName

Floats = NDArray[np.float64]
THRESHOLD = 0.5  # a risk above it is called


@dataclass(frozen=True, kw_only=True)
class Called:
    """sums: (K, 4) a patient: samples, those called rightly, those with the outcome that are called, and the sum of
    those with the outcome and those called.
    """

    sums: Floats

    @classmethod
    def of(cls, risks: Floats, targets: Floats, patients: NDArray[np.int64], *, cohort: int) -> Self:
        """Of n samples; ``patients`` (n,) are numbers below ``cohort``."""
        call = (risks > THRESHOLD).astype(np.float64)
        parts = (np.ones_like(risks), call == targets, call * targets, call + targets)
        return cls(sums=by_patient(patients, *parts, cohort=cohort))

    def metrics(self, weights: NDArray[Any]) -> Mapping[MetricName, Floats]:
        """Accuracy, and F1 = 2 TP / (2 TP + FP + FN), each (b,), under ``weights`` (b, K).

        NaN where there is no sample; F1 also where nobody has the outcome and nobody is called.
        """
        count, right, true, either = (weights.astype(np.float64) @ self.sums).T
        with np.errstate(divide="ignore", invalid="ignore"):
            return {"accuracy": right / count, "f1": 2.0 * true / either}
