"""Histograms on edges that the concept file fixes, so that no edge tells a patient's value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_client.data.checking.disclosure import FEW, Group, Teller
from fl_shared.concepts import Concept

BINS = 12
_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One or more neighbouring bins: ``low`` <= value < ``high`` (None: open), samples, how many bins it spans."""

    low: float | None
    high: float | None
    count: int
    bins: int

    def as_json(self) -> dict[str, Any]:
        """For the summary."""
        return {"from": self.low, "to": self.high, "count": self.count, "bins": self.bins}


def edges(of: Concept) -> NDArray[np.float64]:
    """Edges over the concept's working range: round numbers, or even on the logarithm."""
    if of.log:
        return np.asarray(np.geomspace(of.low, of.high, BINS + 1))
    raw = (of.high - of.low) / BINS
    magnitude = 10.0 ** np.floor(np.log10(raw))
    step = next(m * magnitude for m in _STEPS if m * magnitude >= raw * (1 - 1e-9))
    first, last = np.ceil(of.low / step - 1e-9), np.floor(of.high / step + 1e-9)
    return np.asarray(np.round(np.arange(first, last + 1) * step, 9))


def histogram(values: NDArray[np.float64], of: Concept, *, observed: Group, teller: Teller) -> Sequence[Bar]:
    """Bars of the values (N,) that are not NaN; for outsiders bins are merged until each holds 10 patients.

    Counts add up to ``observed``: where that is not told, they are rounded down to tens. Empty when fewer than two
    bars are left.
    """
    fixed = edges(of)
    place = np.searchsorted(fixed, values + 1e-6 * (of.high - of.low), side="right")  # float32 came just below an edge
    known = np.isfinite(values)
    open_ended: list[float | None] = [None, *(round(float(edge), 9) for edge in fixed), None]
    groups = [[k] for k in range(len(fixed) + 1)]
    if not teller.local:
        groups = _merged(groups, place, known, teller)
    bars = []
    for group in groups:
        n = int((known & np.isin(place, group)).sum())
        n = n if observed.exact is not None else n // FEW * FEW
        bars.append(Bar(low=open_ended[group[0]], high=open_ended[group[-1] + 1], count=n, bins=len(group)))
    return bars if len(bars) > 1 and known.any() else ()


def _merged(
    groups: Sequence[list[int]], place: NDArray[np.intp], known: NDArray[np.bool_], teller: Teller
) -> list[list[int]]:
    """Neighbours joined from the left until each holds 10 patients; a rest goes to the last."""
    done: list[list[int]] = []
    open_: list[int] = []
    for group in groups:
        open_ = open_ + group
        if teller.enough(known & np.isin(place, open_)):
            done.append(open_)
            open_ = []
    if open_ and done:
        done[-1] = done[-1] + open_
    return done
