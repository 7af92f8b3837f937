"""Histograms with fixed edges: where a value is counted, and what counts of several sites tell of the values.

Edges are constants of the concept file or of this code, never of patients, so that nothing but counts is exchanged.
Counts may be noised (of any sign) or exact with small ones withheld; what is made of them here is post-processing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CELLS = 64  # of a quantity: 256 are much worse under noise
BELOW_ABOVE = 2
NOISE_SDS = 2.0  # a sum of counts below this many standard deviations of its noise says nothing
TAIL = 1.96


@dataclass(frozen=True, kw_only=True)
class Bins:
    """Equal cells between ``low`` and ``high``, one below, one above. Cells are numbered from the one below."""

    low: float
    high: float
    cells: int

    @property
    def edges(self) -> Floats:
        """(cells + 1,)."""
        return np.linspace(self.low, self.high, self.cells + 1)

    @property
    def size(self) -> int:
        """Cells, with those below and above."""
        return self.cells + BELOW_ABOVE

    def place(self, values: NDArray[np.floating[Any]]) -> Integers:
        """Number of each value's cell; the ends belong to the inner cells. Values must be finite."""
        slack = 1e-6 * (self.high - self.low)  # a limit stays inside, however it was rounded
        x = np.asarray(values, dtype=np.float64)
        inner = np.clip(np.searchsorted(self.edges, x, side="right"), 1, self.cells)
        return np.where(x < self.low - slack, 0, np.where(x > self.high + slack, self.cells + 1, inner))

    def quantile(self, counts: Floats, share: float) -> float:
        """The value below which ``share`` of the counts (size,) lie: linear within a cell; an end beyond the ends."""
        upto = np.concatenate([[0.0], np.cumsum(counts)])
        cell = int(np.clip(np.searchsorted(upto, share * upto[-1], side="left"), 1, self.size)) - 1
        if cell == 0 or cell == self.size - 1:
            return self.low if cell == 0 else self.high
        part = (share * upto[-1] - upto[cell]) / (upto[cell + 1] - upto[cell])
        left, right = self.edges[cell - 1 : cell + 1]
        return float(left + part * (right - left))

    def bounds(self, counts: Floats, share: float, *, off: float, noise: float) -> tuple[float, float]:
        """Between which ends of cells the quantile of the true counts lies.

        Args:
            counts: (size,) what the cells hold, as well as that is known.
            share: of the values.
            off: counts by which a sum of cells may be wrong at most (small ones are told elsewhere).
            noise: standard deviation of a cell; bounds are 95 % ones then, for one quantile.
        """
        total = counts.sum()
        if total <= 0:
            return self.low, self.high
        left = np.arange(1, self.size + 1)  # cells up to each cell's right end
        spread = noise * np.sqrt((1 - share) ** 2 * left + share**2 * (self.size - left))
        upto, doubt = np.cumsum(counts) - share * total, off + TAIL * spread
        surely_above, surely_below = np.flatnonzero(upto >= doubt), np.flatnonzero(upto <= -doubt)
        ends = np.concatenate([self.edges, [self.high]])  # right end of each cell
        low = ends[surely_below[-1]] if len(surely_below) else self.low
        high = ends[surely_above[0]] if len(surely_above) else self.high
        return float(low), float(max(low, high))


def kept(counts: NDArray[np.number[Any]], *, noise: float, least: float = 0.0) -> Floats:
    """Counts (K,) of 0 or more: what is below ``least``, or says nothing under the noise, is 0; the total stays.

    Args:
        counts: noised sums, or exact ones.
        noise: standard deviation of each.
        least: a smaller count is not told.
    """
    total = max(float(counts.sum()), 0.0)
    held = np.where(counts >= max(least, NOISE_SDS * noise), counts, 0).astype(np.float64)
    told: Floats = held * (total / held.sum()) if held.sum() > 0 else held
    return told


def projected(counts: Sequence[float] | NDArray[np.number[Any]]) -> Floats:
    """The nearest counts of 0 or more with the same total (which is at least 0).

    Projection on a simplex (Duchi et al. 2008, algorithm 1): one number is taken from all cells, so that noise of the
    empty ones does not add up as it would if negative counts alone were cut off.
    """
    values = np.asarray(counts, dtype=np.float64)
    total = float(values.sum())
    if total <= 0:
        return np.zeros_like(values)
    ordered = np.sort(values)[::-1]
    excess = (np.cumsum(ordered) - total) / np.arange(1, len(values) + 1)
    taken = excess[np.flatnonzero(ordered > excess)[-1]]
    nearest: Floats = np.maximum(values - taken, 0.0)
    return nearest


def wilson(events: float, n: float, *, noise: float = 0.0) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), widened by the noise (a standard deviation) of both counts."""
    if n <= 0:
        return 0.0, 1.0
    p = min(max(events / n, 0.0), 1.0)
    middle, weight = p + TAIL**2 / (2 * n), 1 + TAIL**2 / n
    half = TAIL * math.sqrt(p * (1 - p) / n + TAIL**2 / (4 * n * n))
    noised = TAIL * noise * math.sqrt((1 - p) ** 2 + p**2) / n
    half = math.hypot(half, noised)
    return max(0.0, (middle - half) / weight), min(1.0, (middle + half) / weight)
