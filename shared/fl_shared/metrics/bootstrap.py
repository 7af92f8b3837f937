"""Patient-clustered bootstrap: patients are drawn with replacement, with all their samples.

A resample is a vector of integer weights over patients, so nothing is sorted twice and all resamples of a chunk are a
few array operations. Equal to a loop over scikit-learn's metrics (tests), and measured against it in
``tests/benchmarks/bootstrap_speed.py``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.discrimination import Ranking

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CHUNK_CELLS = 2**21  # weights in memory at a time: 16 MiB an array of int64
MAX_LEFT_OUT = 0.05


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A percentile interval and the share of resamples that could not enter it."""

    low: float | None
    high: float | None
    left_out: float


@dataclass(frozen=True, kw_only=True)
class _Label:
    """A label's samples in the form that weights over patients need."""

    ranking: Ranking
    event_patients: Integers  # (P,) patient of each event, in the ranking's order
    other_patients: Integers  # (Q,)
    squares: Floats  # (K,) sum of squared errors of each patient
    counts: Floats  # (K,) samples of each patient

    @classmethod
    def of(cls, scores: Floats, targets: Floats, patients: Integers, *, cohort: int) -> _Label:
        ranking = Ranking.of(scores, targets)
        return cls(
            ranking=ranking,
            event_patients=patients[ranking.events],
            other_patients=patients[ranking.others],
            squares=np.bincount(patients, weights=np.square(scores - targets), minlength=cohort).astype(np.float64),
            counts=np.bincount(patients, minlength=cohort).astype(np.float64),
        )

    def metrics(self, weights: Integers) -> tuple[Floats, Floats, Floats]:
        """AUROC, average precision and Brier score (b,) under ``weights`` (b, K)."""
        auroc, auprc = self.ranking.auroc_ap(weights[:, self.event_patients], weights[:, self.other_patients])
        floats = weights.astype(np.float64)
        total = floats @ self.counts
        return auroc, auprc, floats @ self.squares / np.where(total > 0, total, np.nan)


def patient_weights(cohort: int, *, resamples: int, seed: int, rows: int) -> Iterator[Integers]:
    """Multinomial weights over ``cohort`` patients, in chunks of at most ``rows`` resamples."""
    generator = np.random.default_rng(seed)
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        drawn = generator.integers(0, cohort, size=(count, cohort))
        drawn += np.arange(count)[:, None] * cohort  # one bincount for all rows
        yield np.bincount(drawn.ravel(), minlength=count * cohort).reshape(count, cohort)


def bootstrap(
    scores: Floats,
    targets: Floats,
    mask: NDArray[np.bool_],
    patients: NDArray[np.integer],
    *,
    resamples: int,
    seed: int,
) -> dict[str, Floats]:
    """Resample patients and compute every metric of every label on the same resamples.

    Args:
        scores: (N, C) predicted probabilities.
        targets: (N, C) 0 or 1.
        mask: (N, C) true where the target is known.
        patients: (N,) identifiers; equal means the same patient.
        resamples: number of resamples B.
        seed: the same seed and patients give the same resamples, so systems can be compared pairwise.

    Returns:
        ``auroc``, ``auprc`` and ``brier``, each (B, C); NaN where a resample does not define the metric.
    """
    names, patient = np.unique(patients, return_inverse=True)
    labels = [
        _Label.of(scores[known, c], targets[known, c], patient[known], cohort=len(names))
        for c, known in enumerate(mask.T)
    ]
    rows = max(1, CHUNK_CELLS // len(patients))
    chunks = [
        np.stack([label.metrics(weights) for label in labels], axis=-1)
        for weights in patient_weights(len(names), resamples=resamples, seed=seed, rows=rows)
    ]
    return dict(zip(("auroc", "auprc", "brier"), np.concatenate(chunks, axis=1), strict=True))


def interval(values: Floats) -> Interval:
    """95 % percentile interval of ``values`` (B,), leaving out those that are NaN (Efron 1979)."""
    kept = values[np.isfinite(values)]
    left_out = 1.0 - kept.size / values.size
    if not kept.size:
        return Interval(low=None, high=None, left_out=left_out)
    low, high = np.percentile(kept, [2.5, 97.5])
    return Interval(low=float(low), high=float(high), left_out=left_out)
