"""How well scores separate events from non-events: AUROC, average precision, sensitivity, ROC and PR curves.

`Ranking` sorts once; every metric is then a few sums over integer weights, for one cohort or for a whole matrix of
bootstrap resamples. Oracle in the tests: scikit-learn's ``roc_auc_score`` and ``average_precision_score``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SPECIFICITY = 90  # percent at which the sensitivity is told
ROC_GRID: Floats = np.linspace(0.0, 1.0, 51)
PR_GRID: Floats = np.linspace(0.05, 1.0, 20)


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Events and non-events in the order of their scores.

    Attributes:
        events: (P,) positions of the events in the input, ascending by score.
        others: (Q,) positions of the non-events, ascending by score.
        events_below: (P,) number of events that score strictly below each event.
        others_below: (P,) number of non-events strictly below each event.
        others_upto: (P,) number of non-events at or below each event.
    """

    events: NDArray[np.intp]
    others: NDArray[np.intp]
    events_below: NDArray[np.intp]
    others_below: NDArray[np.intp]
    others_upto: NDArray[np.intp]

    @classmethod
    def of(cls, scores: ArrayLike, targets: ArrayLike) -> Ranking:
        """Sort ``scores`` (N,) within the two classes of ``targets`` (N,), 0 or 1."""
        score, event = np.asarray(scores, dtype=np.float64), np.asarray(targets) == 1
        order = np.argsort(score, kind="stable")
        events, others = order[event[order]], order[~event[order]]
        high, low = score[events], score[others]
        return cls(
            events=events,
            others=others,
            events_below=np.searchsorted(high, high, side="left"),
            others_below=np.searchsorted(low, high, side="left"),
            others_upto=np.searchsorted(low, high, side="right"),
        )

    def auroc(self, events: NDArray[Any], others: NDArray[Any]) -> Floats:
        """AUROC of weighted samples: the weighted Mann-Whitney probability, ties counting one half.

        Bamber, J Math Psychol 1975.

        Args:
            events: (..., P) non-negative weights of `events`, in that order; they need not be integers.
            others: (..., Q) non-negative integer weights of `others`.

        Returns:
            (...,); NaN where a class has no weight.
        """
        below_other = _cumulative(others)
        return self._auroc(events, below_other, below_other[..., self.others_below])

    def auroc_ap(self, events: NDArray[Any], others: NDArray[Any]) -> tuple[Floats, Floats]:
        """AUROC and average precision of samples with integer weights.

        Average precision is sum_k (R_k - R_{k-1}) P_k over distinct thresholds, without interpolation, as in
        scikit-learn. Arguments and NaN as in `auroc`.
        """
        return self.ranked(events, others)[:2]

    def ranked(self, events: NDArray[Any], others: NDArray[Any]) -> tuple[Floats, Floats, Floats]:
        """`auroc_ap`, and the sensitivity at `SPECIFICITY` percent.

        That is the highest sensitivity of all thresholds whose specificity is at least as high: of attained operating
        points, without interpolation; 0 where no event can be told at such a threshold.
        """
        below_event, below_other = _cumulative(events), _cumulative(others)
        positives, negatives = below_event[..., -1], below_other[..., -1]
        lower = below_other[..., self.others_below]
        tied = self._events_tie
        true = positives[..., None] - (below_event[..., self.events_below] if tied else below_event[..., :-1])
        false = negatives[..., None] - lower
        precision = true / np.maximum(true + false, 1)  # 0/1 where the weight is 0 and the term drops out
        count = np.where(negatives > 0, np.where(positives > 0, positives, np.nan), np.nan)
        told = (100 * lower >= SPECIFICITY * negatives[..., None]).sum(axis=-1)  # the events with the highest scores
        lowest = np.minimum(len(self.events) - told, max(len(self.events) - 1, 0))
        above = np.where(told > 0, np.take_along_axis(true, lowest[..., None], axis=-1)[..., 0], 0) if true.size else 0
        return self._auroc(events, below_other, lower), (events * precision).sum(axis=-1) / count, above / count

    def _auroc(self, events: NDArray[Any], below_other: Integers, lower: Integers) -> Floats:
        twice_below = lower + below_other[..., self.others_upto] if self._classes_tie else 2 * lower
        pairs = events.sum(axis=-1).astype(np.float64) * below_other[..., -1]
        area: Floats = (events * twice_below).sum(axis=-1) / 2.0 / np.where(pairs > 0, pairs, np.nan)
        return area

    @cached_property
    def _events_tie(self) -> bool:
        return not np.array_equal(self.events_below, np.arange(len(self.events)))

    @cached_property
    def _classes_tie(self) -> bool:
        return not np.array_equal(self.others_below, self.others_upto)


def _cumulative(weights: NDArray[Any]) -> Integers:
    """(..., K) -> (..., K + 1): weight of the first k samples, exact in integers."""
    total = np.zeros((*weights.shape[:-1], weights.shape[-1] + 1), dtype=np.int64)
    np.cumsum(weights, axis=-1, out=total[..., 1:])
    return total


def auroc(scores: ArrayLike, targets: ArrayLike) -> float:
    """Area under the ROC curve, ties by mid-rank; NaN when a class is empty."""
    ranking = Ranking.of(scores, targets)
    return float(ranking.auroc_ap(np.ones_like(ranking.events), np.ones_like(ranking.others))[0])


def average_precision(scores: ArrayLike, targets: ArrayLike) -> float:
    """Area under the precision-recall curve as average precision; NaN when a class is empty."""
    ranking = Ranking.of(scores, targets)
    return float(ranking.auroc_ap(np.ones_like(ranking.events), np.ones_like(ranking.others))[1])


def roc_curve(scores: ArrayLike, targets: ArrayLike, *, grid: Floats = ROC_GRID) -> Floats:
    """Sensitivity (G,) at each false positive rate of ``grid``, linear between thresholds.

    At a vertical step the upper end counts, as an operating point there is attainable.
    """
    false, true = _counts(scores, targets)
    x, y = false / false[-1], true / true[-1]
    here = np.searchsorted(x, grid, side="right") - 1
    after = np.minimum(here + 1, len(x) - 1)
    run = x[after] - x[here]
    share = np.divide(grid - x[here], run, out=np.zeros_like(run), where=run > 0)
    return np.asarray(y[here] + share * (y[after] - y[here]), dtype=np.float64)


def pr_curve(scores: ArrayLike, targets: ArrayLike, *, grid: Floats = PR_GRID) -> Floats:
    """Precision (G,) at the highest threshold whose recall reaches each value of ``grid`` (in (0, 1])."""
    false, true = _counts(scores, targets)
    at = np.searchsorted(true[1:], grid * true[-1] - 1e-9, side="left") + 1
    return np.asarray(true[at] / (true[at] + false[at]), dtype=np.float64)


def _counts(scores: ArrayLike, targets: ArrayLike) -> tuple[Floats, Floats]:
    """False and true positives at every distinct threshold, from none (first) to all samples (last)."""
    score, event = np.asarray(scores, dtype=np.float64), np.asarray(targets) == 1
    order = np.argsort(-score, kind="stable")
    last = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)
    true = np.cumsum(event[order], dtype=np.float64)[last]
    if not 0 < true[-1] < len(order):
        raise ValueError("a curve needs events and non-events")
    return np.concatenate([[0.0], last + 1.0 - true]), np.concatenate([[0.0], true])
