"""What may be said of one label of one cohort: the rules for small cells.

All limits count patients, not samples (facts: counts below 10 are suppressed):

- a cohort, or a label's known cohort, below ``min_patients`` releases nothing;
- fewer than 2 patients with, or without, the event: the metric is not defined;
- fewer than 10 patients with, or without, the event: the number of events is withheld, the value stays;
- curves need 10 patients with the event, 10 without, and 40 in all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MIN_DEFINED = 2
MIN_CELL = 10
MIN_CURVE = 40


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One label of one cohort: its known samples, and what may be said of them."""

    label: str
    scores: NDArray[np.float64]
    targets: NDArray[np.float64]
    patients: NDArray[np.integer]
    min_patients: int

    @property
    def cohort(self) -> int:
        """Patients whose outcome is known."""
        return len(np.unique(self.patients))

    @property
    def smaller(self) -> int:
        """Patients with the event, or patients without it: the smaller number."""
        return min(len(np.unique(self.patients[self.targets == side])) for side in (0, 1))

    @property
    def withheld(self) -> str:
        """Why no value is given; empty when one is."""
        if self.cohort < self.min_patients:
            return f"suppressed: fewer than {self.min_patients} patients"
        if not np.isfinite(self.scores).all():
            return "not defined: scores are not finite"
        if self.smaller < MIN_DEFINED:
            return f"not defined: fewer than {MIN_DEFINED} patients with, or without, the event"
        return ""

    @property
    def n(self) -> int | None:
        """Samples judged."""
        return len(self.targets) if self.cohort >= self.min_patients else None

    @property
    def events(self) -> int | None:
        """Samples with the event, unless that (or its complement) is a small cell."""
        return int(self.targets.sum()) if self.n is not None and self.smaller >= MIN_CELL else None

    @property
    def note(self) -> str:
        """What the reader must know about the counts of a row with a value."""
        if self.events is not None:
            return ""
        return f"events withheld: fewer than {MIN_CELL} patients with, or without, the event"

    @property
    def shows_curves(self) -> bool:
        """Whether curves may be drawn."""
        return not self.withheld and self.smaller >= MIN_CELL and self.cohort >= MIN_CURVE
