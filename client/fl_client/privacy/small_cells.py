"""Exact counts that may leave a site without noise: none of 1 to 9 patients, told or to be had by subtraction.

Without a privacy promise counts are told as they are, so the rules for small cells hold (facts: below 10 suppressed).
All counts of a study partition the same patients, one record each, whose number every histogram tells:

- in a histogram of a quantity, cells of fewer than 10 are told with the next one to the right (those after the last
  told one with it), and fewer than 10 without a value with the cell of the median, so that nothing is left out;
- of classes, small ones are withheld, an empty one too (it would be true of everybody), and with them the smallest
  others until at least 10 patients are withheld together.

A withheld cell is 0. Source: Hundepool et al., Statistical Disclosure Control, 2012, ch. 4 and 5.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.disclosure import MIN_CELL

Counts = NDArray[np.int64]


def merged_cells(counts: Counts, missing: int) -> tuple[Counts, int]:
    """Cells of a quantity (K,), and the number without a value, as they may be told; each is 0 or 10 or more.

    All are 0 when fewer than 10 have a value; when nobody has, the others may be told.
    """
    told, pending, last = np.zeros_like(counts), 0, None
    for cell, count in enumerate(counts.tolist()):
        pending += count
        if pending >= MIN_CELL:
            told[cell], pending, last = pending, 0, cell
    if last is None:
        return told, missing if not pending and missing >= MIN_CELL else 0
    told[last] += pending
    if 0 < missing < MIN_CELL:
        told[_median(told)] += missing
        missing = 0
    return told, missing


def _median(counts: Counts) -> int:
    return int(np.searchsorted(np.cumsum(counts), counts.sum() / 2, side="left"))


def withheld_classes(counts: Counts, rest: int) -> tuple[Counts, int]:
    """Classes (K,), and how many are of none that is known, as they may be told; each is 0 or 10 or more."""
    every = np.append(counts, rest)
    hidden = every < MIN_CELL
    hidden[-1] = 0 < rest < MIN_CELL
    while hidden.any() and every[hidden].sum() < MIN_CELL and not hidden.all():
        hidden[np.where(hidden, np.iinfo(np.int64).max, every).argmin()] = True
    every[hidden] = 0
    return every[:-1], int(every[-1])


def tells_small(counts: NDArray[Any]) -> bool:
    """Whether any count is of 1 to 9 patients, or is no count."""
    return bool(((counts != 0) & (counts < MIN_CELL)).any())
