"""How well risks order the times of events when some patients are censored: the C of Harrell and Uno, AUC by a time.

An event at a time comes before a censoring at the same time. Oracles in the tests: loops over all pairs, and
scikit-survival.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.bootstrap import Metrics
from fl_shared.metrics.discrimination import Ranking
from fl_shared.metrics.follow_up import FollowUp

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Places = NDArray[np.intp]

BLOCK_CELLS = 2**22  # pairs in memory at a time: 16 MiB of float32
MINE, ANOTHER = 1, 2  # causes that ended a follow-up


@dataclass(frozen=True, kw_only=True)
class Concordance:
    """Of pairs of patients in which one's event came first, the share with its risk higher; equal ones count one half.

    A pair counts when the other one was still followed then: its time is later, or equal without an event; a patient
    with another cause stays at risk for ever (Wolbers, Epidemiology 2009). Harrell's C (JAMA 1982) counts every such
    pair once. Uno's C (Stat Med 2011) counts it 1 / G(T)^2 times, G being the Kaplan-Meier estimate of the censoring
    just before the event at T; with a patient whose other cause came before, at S, 1 / (G(T) G(S)) times (Wolbers,
    Biostatistics 2014). End the times at the horizon beforehand.

    rank: (n,) of the risk, equal for equal ones; samples are in the order of the times, events first, another cause
    before censorings. cases: (E,) places of the events. outlived: (E,) place from which on all outlive the case.
    others: (R,) places of other causes; before: (E,) how many of them came before the case. follow_up: asked at cases,
    then others.
    """

    rank: NDArray[np.int32]
    patients: Integers
    cases: Places
    outlived: Places
    others: Places
    before: Places
    follow_up: FollowUp

    @classmethod
    def of(cls, risk: Floats, time: Floats, cause: NDArray[np.integer | np.bool_], patients: Integers) -> Self:
        """All (n,); cause: 0 none, `MINE` or `ANOTHER`."""
        order = np.lexsort((np.where(cause == 0, ANOTHER + 1, cause), time))
        sorted_, ended = time[order], cause[order]
        cases, others = np.flatnonzero(ended == MINE), np.flatnonzero(ended == ANOTHER)
        when = sorted_[cases]
        at_once = np.searchsorted(when, when, side="right") - np.searchsorted(when, when, side="left")
        rank = np.searchsorted(np.unique(risk), risk).astype(np.int32)  # compared faster than the risks
        asked = np.concatenate([when, sorted_[others]])
        return cls(
            rank=rank[order],
            patients=patients[order],
            cases=cases,
            outlived=np.searchsorted(sorted_, when, side="left") + at_once,
            others=others,
            before=np.searchsorted(sorted_[others], when, side="left"),
            follow_up=FollowUp.of(time, cause > 0, patients, asked=asked),
        )

    def metrics(self, weights: Integers) -> Metrics:
        """Both C (b,) under ``weights`` (b, K)."""
        weight = weights[:, self.patients]
        share = self.follow_up.share(weights)
        inverse = 1.0 / np.where(share > 0, share, 1.0)  # 0 only where the weight is 0
        once, times = weight[:, self.cases], weight[:, self.cases] * inverse[:, : len(self.cases)]
        rivals = weight[:, self.others] * inverse[:, len(self.cases) :]
        upto = _upto(weight)
        later = upto[:, -1:] - upto[:, self.outlived]
        sooner, sooner_times = _upto(weight[:, self.others])[:, self.before], _upto(rivals)[:, self.before]
        pairs = (once * (later + sooner)).sum(axis=1)
        times_later = times * inverse[:, : len(self.cases)]
        uno_pairs = (times_later * later + times * sooner_times).sum(axis=1)
        concordant, uno = np.zeros(len(weight)), np.zeros(len(weight))
        small = weight.astype(np.float32)  # sums of small integers: exact in float32 up to 2^23 samples
        size = max(1, BLOCK_CELLS // weight.shape[1])
        for start in range(0, len(self.cases), size):
            block = slice(start, start + size)
            below = self._twice_below(block)
            found = small @ below.T
            concordant += (once[:, block] * found).sum(axis=1)
            uno += (times_later[:, block] * found).sum(axis=1)
            if len(self.others):
                rest = self._twice_below_rivals(block)
                concordant += (once[:, block] * (small[:, self.others] @ rest.T)).sum(axis=1)
                uno += (times[:, block] * (rivals @ rest.T.astype(np.float64))).sum(axis=1)
        return {
            "harrell_c": concordant / 2.0 / np.where(pairs > 0, pairs, np.nan),
            "uno_c": uno / 2.0 / np.where(pairs > 0, uno_pairs, np.nan),
        }

    def _twice_below(self, block: slice) -> NDArray[np.float32]:
        """(e, n): 2 where a patient outlived the case at a lower risk, 1 at the same risk, else 0."""
        places = np.arange(len(self.rank), dtype=np.int32)
        twice = self._twice(block, self.rank)
        twice *= (places >= self.outlived[block, None].astype(np.int32)).view(np.int8)
        return twice.astype(np.float32)

    def _twice_below_rivals(self, block: slice) -> NDArray[np.float32]:
        """(e, R): the same of those whose other cause came before the case."""
        twice = self._twice(block, self.rank[self.others])
        twice *= (np.arange(len(self.others)) < self.before[block, None]).view(np.int8)
        return twice.astype(np.float32)

    def _twice(self, block: slice, rank: NDArray[np.int32]) -> NDArray[np.int8]:
        case = self.rank[self.cases[block], None]
        return (case > rank).view(np.int8) + (case >= rank).view(np.int8)


def _upto(weight: NDArray[np.number]) -> NDArray[np.number]:
    """(b, n) -> (b, n + 1): weight of the first k samples."""
    total = np.zeros((len(weight), weight.shape[1] + 1), dtype=weight.dtype)
    np.cumsum(weight, axis=1, out=total[:, 1:])
    return total


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
    follow_up: FollowUp

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
            follow_up=FollowUp.of(time, event, patients, asked=time[cases]),
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
