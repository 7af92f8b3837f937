"""Which patients take part in a step.

Private steps draw every patient independently with probability q (Poisson sampling: the only scheme that the
accountant's amplification holds for; shuffled fixed batches cost about five times the epsilon) and then one record a
patient, so that a row is a patient, or all of them. An empty draw is a step like any other.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


class PatientRecords:
    """Row numbers grouped by patient.

    Args:
        rows: (R,) row numbers of the cohort that may be drawn.
        patient: (N,) patient number of every row of the cohort.
    """

    def __init__(self, *, rows: Rows, patient: Rows) -> None:
        self.rows = rows[np.argsort(patient[rows], kind="stable")]
        self.patients, self._first, self._count = np.unique(patient[self.rows], return_index=True, return_counts=True)

    def __len__(self) -> int:
        return len(self.patients)

    def one_each(self, chosen: Rows, rng: np.random.Generator) -> Rows:
        """A uniformly drawn row of each chosen patient (positions 0..len-1)."""
        rows: Rows = self.rows[self._first[chosen] + rng.integers(self._count[chosen])]
        return rows

    def all_of(self, chosen: Rows) -> Rows:
        """Every row of each chosen patient (positions 0..len-1)."""
        parts = [self.rows[self._first[p] : self._first[p] + self._count[p]] for p in chosen]
        return np.concatenate([np.zeros(0, np.int64), *parts])


def poisson_batches(
    records: PatientRecords, *, q: float, steps: int, every: bool = False, rank: int = 0, world: int = 1
) -> Iterator[Rows]:
    """``steps`` secret Poisson draws of patients, one row of each or ``every``; possibly empty.

    The generator is seeded from the operating system's entropy: who knew the draw would know who was left out. With
    ``world`` > 1 each rank draws from its own fixed shard of the patients, which together is one draw over all.
    """
    rng = np.random.default_rng()
    shard = np.arange(rank, len(records), world)
    for _ in range(steps):
        chosen = shard[rng.random(len(shard)) < q]
        yield records.all_of(chosen) if every else records.one_each(chosen, rng)


def shuffled_batches(records: PatientRecords, *, size: int, steps: int, rng: np.random.Generator) -> Iterator[Rows]:
    """``steps`` batches of ``size`` patients (all, if there are fewer) from shuffled epochs, one row a patient.

    For training without privacy only: it carries no amplification.
    """
    size = min(size, len(records))
    left: Rows = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(left) < size:
            left = rng.permutation(len(records))
        chosen, left = left[:size], left[size:]
        yield records.one_each(chosen, rng)
