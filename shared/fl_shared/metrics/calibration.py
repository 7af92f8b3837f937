"""Whether predicted risks are true: Brier score and its parts, intercept and slope, expected error, bins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fl_shared.metrics.recalibration import Nodes, intercepts, logits_of, slopes
from fl_shared.metrics.table import MetricName

Floats = NDArray[np.float64]
GROUPS = 10  # of the expected calibration error and the parts of the Brier score


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Predicted risks (n,) against outcomes, as sums a patient.

    Brier score = reliability - resolution + uncertainty (Murphy, J Appl Meteorol 1973), uncertainty being e (1 - e) of
    the share of events e. Reliability is the mean squared distance of mean risk and share of events in ten groups of
    about equal size by risk. Resolution takes in what risks vary within the groups (Stephenson, Weather Forecast 2008:
    "generalised resolution"), so that the identity holds exactly, in every resample.

    sums: (K, 5) samples, risks, events, squared errors, events times centred logit. gaps, sizes: (K, groups) risks less
    outcomes, and samples. mass: (K, J) on the ``nodes`` of the logits.
    """

    sums: Floats
    gaps: Floats
    sizes: Floats
    mass: Floats
    nodes: Nodes

    @classmethod
    def of(cls, risks: Floats, targets: Floats, patients: NDArray[np.int64], *, cohort: int) -> Self:
        """``patients`` (n,) are numbers below ``cohort``."""
        logits = logits_of(risks)
        nodes = Nodes.of(logits, targets)
        group = np.searchsorted(np.quantile(risks, np.linspace(0, 1, GROUPS + 1)[1:-1]), risks, side="left")
        inside = (group == np.arange(GROUPS)[:, None]).astype(np.float64)
        moments = targets * (logits - nodes.centre)
        parts = (np.ones_like(risks), risks, targets, np.square(risks - targets), moments)
        return cls(
            sums=by_patient(patients, *parts, cohort=cohort),
            gaps=by_patient(patients, *(inside * (risks - targets)), cohort=cohort),
            sizes=by_patient(patients, *inside, cohort=cohort),
            mass=by_patient(patients, *nodes.shares.T, cohort=cohort),
            nodes=nodes,
        )

    def metrics(self, weights: NDArray[Any]) -> Mapping[MetricName, Floats]:
        """The measures above, each (b,), under ``weights`` (b, K)."""
        w, parts = weights.astype(np.float64), (self.sums, self.gaps, self.sizes, self.mass)
        ends = np.cumsum([part.shape[1] for part in parts])[:-1]
        sums, gaps, sizes, mass = np.split(w @ np.concatenate(parts, axis=1), ends, axis=1)
        count, expected, observed, squares, moments = sums.T
        several = (observed > 0) & (observed < count)
        with np.errstate(divide="ignore", invalid="ignore"):
            count = np.where(count > 0, count, np.nan)
            share = observed / count
            reliability = (gaps**2 / np.maximum(sizes, 1.0)).sum(axis=1) / count
            return {
                "brier": squares / count,
                "brier_reliability": reliability,
                "brier_resolution": reliability + share * (1 - share) - squares / count,
                "expected_observed": expected / np.where(observed > 0, observed, np.nan),
                "calibration_in_the_large": intercepts(mass, self.nodes, observed),
                "calibration_slope": np.where(several, slopes(mass, self.nodes, observed, moments), np.nan),
                "ece": np.abs(gaps).sum(axis=1) / count,
            }


def by_patient(patients: NDArray[np.int64], *values: Floats, cohort: int) -> Floats:
    """Sums (K, len(values)) of samples' values (n,) a patient."""
    return np.stack([np.bincount(patients, weights=v, minlength=cohort) for v in values], axis=1).astype(np.float64)


def brier(scores: ArrayLike, targets: ArrayLike) -> float:
    """Mean squared difference of predicted risk and outcome (Brier, Mon Weather Rev 1950)."""
    return float(np.mean(np.square(np.asarray(scores, np.float64) - np.asarray(targets, np.float64))))
