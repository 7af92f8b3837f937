"""How well risks order the times of events when some patients are censored: Harrell's C and Uno's AUC by a time.

An event at a time comes before a censoring at the same time. Oracles in the tests: loops over all pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.bootstrap import Metrics
from fl_shared.metrics.discrimination import Ranking

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Places = NDArray[np.intp]

BLOCK_CELLS = 2**22  # pairs in memory at a time: 16 MiB of float32


@dataclass(frozen=True, kw_only=True)
class Concordance:
    """Harrell's C (JAMA 1982): of pairs in which one patient's event came first, the share with its risk higher.

    A pair counts when the other one was still followed then: its time is later, or equal without an event. Equal risks
    count one half. A competing event is given as a time of infinity (Wolbers, Epidemiology 2009).
    """

    rank: NDArray[np.int32]  # (n,) of the risk, equal for equal ones; in the order of the times, events first
    patients: Integers  # (n,)
    cases: Places  # (E,) places of the events
    outlived: Places  # (E,) place from which on all patients outlive the case

    @classmethod
    def of(cls, risk: Floats, time: Floats, event: NDArray[np.bool_], patients: Integers) -> Self:
        """All (n,)."""
        order = np.lexsort((~event, time))
        cases = np.flatnonzero(event[order])
        when = time[order][cases]
        at_once = np.searchsorted(when, when, side="right") - np.searchsorted(when, when, side="left")
        outlived = np.searchsorted(time[order], when, side="left") + at_once
        rank = np.searchsorted(np.unique(risk), risk).astype(np.int32)  # compared faster than the risks
        return cls(rank=rank[order], patients=patients[order], cases=cases, outlived=outlived)

    def metrics(self, weights: Integers) -> Metrics:
        """Harrell's C (b,) under ``weights`` (b, K)."""
        weight = weights[:, self.patients]
        upto = np.zeros((len(weight), weight.shape[1] + 1), dtype=np.int64)
        np.cumsum(weight, axis=1, out=upto[:, 1:])
        pairs = (weight[:, self.cases] * (upto[:, -1:] - upto[:, self.outlived])).sum(axis=1)
        small = weight.astype(np.float32)  # sums of small integers: exact in float32 up to 2^23 samples
        below = np.zeros(weight.shape)
        size = max(1, BLOCK_CELLS // weight.shape[1])
        for start in range(0, len(self.cases), size):
            block = slice(start, start + size)
            below += small[:, self.cases[block]] @ self._twice_below(block)
        concordant = (below * weight).sum(axis=1) / 2.0
        return {"harrell_c": concordant / np.where(pairs > 0, pairs, np.nan)}

    def _twice_below(self, block: slice) -> NDArray[np.float32]:
        """(e, n): 2 where a patient outlived the case at a lower risk, 1 at the same risk, else 0."""
        case, places = self.rank[self.cases[block], None], np.arange(len(self.rank), dtype=np.int32)
        twice = (case > self.rank).view(np.int8) + (case >= self.rank).view(np.int8)
        twice *= (places >= self.outlived[block, None].astype(np.int32)).view(np.int8)
        return twice.astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class _FollowUp:
    """Kaplan-Meier of the censoring: for each group of equal times up to the last one asked for."""

    patients: Integers  # (n,) in the order of the times, events first
    censored_from: Places  # (G,) place of a group's first censored sample
    end: Places  # (G,)
    asked: Places  # (P,) group of each sample that is asked for

    @classmethod
    def of(cls, time: Floats, event: NDArray[np.bool_], patients: Integers, *, asked: Places) -> Self:
        order = np.lexsort((~event, time))
        sorted_, times = time[order], np.unique(time[asked])
        groups = np.unique(sorted_[sorted_ <= times[-1]]) if len(times) else times
        start, end = (np.searchsorted(sorted_, groups, side=side) for side in ("left", "right"))
        events = np.concatenate([[0], np.cumsum(event[order])])
        return cls(
            patients=patients[order],
            censored_from=start + events[end] - events[start],
            end=end,
            asked=np.searchsorted(groups, time[asked]),
        )

    def share(self, weights: Integers) -> Floats:
        """Chance (b, P) of still being followed just before each asked time, under ``weights`` (b, K)."""
        upto = np.zeros((len(weights), len(self.patients) + 1), dtype=np.int64)
        np.cumsum(weights[:, self.patients], axis=1, out=upto[:, 1:])
        at_risk = upto[:, -1:] - upto[:, self.censored_from]
        stay = 1.0 - (upto[:, self.end] - upto[:, self.censored_from]) / np.maximum(at_risk, 1)
        before = np.ones((len(weights), stay.shape[1] + 1))
        np.cumprod(stay, axis=1, out=before[:, 1:])
        return before[:, self.asked]


@dataclass(frozen=True, kw_only=True)
class TimedRanking:
    """Cumulative/dynamic AUC by a day (Uno, JASA 2007): events by then against patients free of it then.

    A patient censored before is neither. An event at time T stands for 1 / G(T-) patients, G being the Kaplan-Meier
    estimate of the censoring in the same patients (of the same resample): those who would have been seen, had nobody
    been censored. Censoring is taken to be independent of the risk.
    """

    ranking: Ranking
    event_patients: Integers
    other_patients: Integers
    follow_up: _FollowUp

    @classmethod
    def of(cls, risk: Floats, time: Floats, event: NDArray[np.bool_], patients: Integers, *, day: float) -> Self:
        """All (n,); see `outcome_by`."""
        outcome = outcome_by(day, time=time, event=event)
        decided = np.flatnonzero(np.isfinite(outcome))
        ranking = Ranking.of(risk[decided], outcome[decided])
        cases = decided[ranking.events]
        return cls(
            ranking=ranking,
            event_patients=patients[cases],
            other_patients=patients[decided[ranking.others]],
            follow_up=_FollowUp.of(time, event, patients, asked=cases),
        )

    def metrics(self, weights: Integers) -> Metrics:
        """AUC (b,) under ``weights`` (b, K)."""
        share = self.follow_up.share(weights)
        events = weights[:, self.event_patients] / np.where(share > 0, share, 1.0)  # 0 only where the weight is 0
        return {"uno_auc": self.ranking.auroc(events, weights[:, self.other_patients])}


def outcome_by(day: float, *, time: Floats, event: NDArray[np.bool_]) -> Floats:
    """(n,): 1 where the event came by ``day``, 0 where it had not at its end, NaN where censored before."""
    happened = event & (time <= day)
    return np.where(happened, 1.0, np.where(time >= day, 0.0, np.nan))
