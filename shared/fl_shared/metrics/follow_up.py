"""How long patients were followed: Kaplan-Meier of the censoring, in every resample.

An event at a time comes before a censoring at the same time, so that a patient censored then was still at risk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Places = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class FollowUp:
    """The chance of still being followed just before each of the asked times.

    patients: (n,) in the order of the times, events first. censored_from: (G,) place of the first censored sample of a
    group of equal times. end: (G,). asked: (P,) groups that end before each asked time.
    """

    patients: Integers
    censored_from: Places
    end: Places
    asked: Places

    @classmethod
    def of(cls, time: Floats, event: NDArray[np.bool_], patients: Integers, *, asked: Floats) -> Self:
        """``time`` (n,) until any ``event`` (n,) or censoring; ``asked`` (P,) times."""
        order = np.lexsort((~event, time))
        sorted_ = time[order]
        groups = np.unique(sorted_[sorted_ < asked.max(initial=-np.inf)])
        start, end = (np.searchsorted(sorted_, groups, side=side) for side in ("left", "right"))
        events = np.concatenate([[0], np.cumsum(event[order])])
        censored_from = start + events[end] - events[start]
        kept = censored_from < end  # of the others nobody was censored
        return cls(
            patients=patients[order],
            censored_from=censored_from[kept],
            end=end[kept],
            asked=np.searchsorted(groups[kept], asked, side="left"),
        )

    def share(self, weights: Integers) -> Floats:
        """Chance (b, P) under ``weights`` (b, K); 0 where all who were left had been censored."""
        upto = np.zeros((len(weights), len(self.patients) + 1), dtype=np.int64)
        np.cumsum(weights[:, self.patients], axis=1, out=upto[:, 1:])
        at_risk = upto[:, -1:] - upto[:, self.censored_from]
        stay = 1.0 - (upto[:, self.end] - upto[:, self.censored_from]) / np.maximum(at_risk, 1)
        before = np.ones((len(weights), stay.shape[1] + 1))
        np.cumprod(stay, axis=1, out=before[:, 1:])
        return before[:, self.asked]
