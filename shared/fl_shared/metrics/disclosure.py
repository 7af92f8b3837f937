"""What may be said of one label of one cohort: the rules for small cells.

All limits count patients, not samples (counts below 10 are suppressed):

- a cohort, or a label's known cohort, below ``min_patients`` releases nothing;
- fewer than 2 patients with, or without, the event: the metric is not defined;
- fewer than 10 patients with, or without, the event: the number of events is withheld, the value stays;
- labels that exclude one another, or lie within one another (events by 90 and by 365 days), tell by subtraction what
  lies between: unless 10 patients do in each case, all such numbers are withheld;
- numbers of two sets of modalities tell who lacks some (`fl_shared.between`): n is told as that of the other set, or
  the number of events is withheld, where those are few;
- curves need 40 patients and a number of events that is told: at known n, curves of one label tell it too;
- points by predicted risk stand for 10 patients each, in one partition for all curves (`risk_groups`); steps by day
  for 10 with the event, also between what several models tell of the same patients (`incidence`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_DEFINED = 2
MIN_CELL = 10
MIN_CURVE = 40
MANY_LEFT_OUT = "of resamples were left out: not defined on them"
UNDEFINED = "not defined on these patients"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One label of one cohort: whose known samples these are, and what may be said of them.

    patients: (n,) patient of each sample. outcome: (n,) 1 with the event, 0 without, NaN not known by then; None when
    the task has no events. defined_by: sides of the outcome without which no value is defined. finite: whether all
    predictions are. gives_away: whether the number of events would tell a small cell by subtraction.
    """

    label: str
    patients: NDArray[np.integer]
    min_patients: int
    outcome: NDArray[np.float64] | None = None
    defined_by: tuple[int, ...] = (1, 0)
    finite: bool = True
    gives_away: bool = False

    @property
    def cohort(self) -> int:
        """Patients whose outcome is known."""
        return len(np.unique(self.patients))

    def smaller(self, *sides: int) -> int:
        """Patients on the smaller one of the sides (1 with the event, 0 without)."""
        assert self.outcome is not None
        return min(len(np.unique(self.patients[self.outcome == side])) for side in sides)

    @property
    def withheld(self) -> str:
        """Why no value is given; empty when one is."""
        if self.cohort < self.min_patients:
            return f"suppressed: fewer than {self.min_patients} patients"
        if not self.finite:
            return "not defined: scores are not finite"
        if self.outcome is not None and self.smaller(*self.defined_by) < MIN_DEFINED:
            sides = "with, or without," if 0 in self.defined_by else "with"
            return f"not defined: fewer than {MIN_DEFINED} patients {sides} the event"
        return ""

    @property
    def n(self) -> int | None:
        """Samples judged."""
        return len(self.patients) if self.cohort >= self.min_patients else None

    @property
    def events(self) -> int | None:
        """Samples with the event, unless that tells of a small cell."""
        if self.outcome is None or self.n is None or self.gives_away or self.smaller(0, 1) < MIN_CELL:
            return None
        return int((self.outcome == 1).sum())

    @property
    def note(self) -> str:
        """What the reader must know about the counts of a row with a value."""
        if self.outcome is None or self.events is not None:
            return ""
        if self.smaller(0, 1) < MIN_CELL:
            return f"events withheld: fewer than {MIN_CELL} patients with, or without, the event"
        return f"events withheld: they would tell a cell of fewer than {MIN_CELL} patients"

    @property
    def shows_curves(self) -> bool:
        """Whether curves may be drawn."""
        return not self.withheld and self.events is not None and self.cohort >= MIN_CURVE


def tell_small(cells: Iterable[NDArray[np.bool_]], patients: NDArray[np.integer]) -> bool:
    """Whether any of the cells, each (n,) bool over samples, holds fewer than 10 patients."""
    return any(len(np.unique(patients[cell])) < MIN_CELL for cell in cells)
