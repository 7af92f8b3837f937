"""Patient-clustered bootstrap: patients are drawn with replacement, with all their samples.

A resample is a vector of integer weights over patients, so nothing is sorted twice and all resamples of a chunk are a
few array operations. Equal to a loop over scikit-learn's metrics (tests), and measured against it in
``tests/benchmarks/bootstrap_speed.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.table import MetricName

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Metrics = Mapping[MetricName, Floats]

CHUNK_CELLS = 2**21  # weights in memory at a time: 16 MiB an array of int64
MAX_LEFT_OUT = 0.05


class Measure(Protocol):
    """The samples of a label, sorted and summed so that metrics under many weightings are cheap."""

    def metrics(self, weights: Integers) -> Metrics:
        """Each metric (b,) under ``weights`` (b, K) of the K patients; NaN where they do not define it."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A percentile interval and the share of resamples that could not enter it."""

    low: float | None
    high: float | None
    left_out: float


def patient_weights(cohort: int, *, resamples: int, seed: int, rows: int) -> Iterator[Integers]:
    """Multinomial weights over ``cohort`` patients, in chunks of at most ``rows`` resamples."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(0, cohort, size=(count, cohort))
        drawn += np.arange(count)[:, None] * cohort  # one bincount for all rows
        yield np.bincount(drawn.ravel(), minlength=count * cohort).reshape(count, cohort)


def bootstrap(
    measures: Sequence[Measure], *, cohort: int, samples: int, resamples: int, seed: int
) -> list[dict[MetricName, Floats]]:
    """Resample patients and compute every metric of every measure on the same resamples.

    Args:
        measures: what is measured; their patients are 0 to ``cohort`` - 1.
        cohort: patients.
        samples: of the largest measure; it bounds the memory.
        resamples: number of resamples B.
        seed: the same seed and patients give the same resamples, so systems can be compared pairwise.

    Returns:
        The metrics of each measure, each (B,); NaN where a resample does not define the metric.
    """
    rows = max(1, CHUNK_CELLS // max(samples, cohort, 1))
    drawn = patient_weights(cohort, resamples=resamples, seed=seed, rows=rows) if measures else ()
    chunks = [[measure.metrics(weights) for measure in measures] for weights in drawn]
    by_measure = zip(*chunks, strict=True)
    return [{name: np.concatenate([chunk[name] for chunk in each]) for name in each[0]} for each in by_measure]


def estimates(measures: Sequence[Measure], *, cohort: int) -> list[dict[MetricName, float]]:
    """The metrics of each measure on the patients as they are."""
    once = np.ones((1, cohort), dtype=np.int64)
    return [{name: float(value[0]) for name, value in measure.metrics(once).items()} for measure in measures]


def interval(values: Floats) -> Interval:
    """95 % percentile interval of ``values`` (B,), leaving out those that are NaN (Efron 1979)."""
    kept = values[np.isfinite(values)]
    left_out = 1.0 - kept.size / values.size
    if not kept.size:
        return Interval(low=None, high=None, left_out=left_out)
    low, high = np.percentile(kept, [2.5, 97.5])
    return Interval(low=float(low), high=float(high), left_out=left_out)
