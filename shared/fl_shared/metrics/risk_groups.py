"""Patients in groups by predicted risk: what the curves of risks, calibration and net benefit tell.

The three are told of one partition, so that none gives away by subtraction what lies between two of their borders: the
points of net benefit and of calibration stand for whole groups. The partition follows the order of the risks alone, so
that a model with moved intercepts (recalibrated) has the same one. A group is of ``few`` patients or more, and of about
a fiftieth of the cohort; samples of equal risk share one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.integer]

MOST = 50  # groups
POINTS = 10  # of calibration


@dataclass(frozen=True, kw_only=True)
class RiskGroups:
    """Groups of samples by predicted risk, the lowest first.

    scores, targets: (n,). group: (n,) number of each sample's group. patients: (G,) of each.
    """

    scores: Floats
    targets: Floats
    group: NDArray[np.int64]
    patients: NDArray[np.int64]

    @classmethod
    def of(cls, scores: Floats, targets: Floats, patients: Integers, *, few: int) -> Self:
        """No group where all patients together are fewer than ``few``."""
        cohort = len(np.unique(patients))
        need = max(few, -(-cohort // MOST))
        edges = np.unique(np.quantile(scores, np.linspace(0, 1, max(1, cohort // need) + 1)[1:-1]))
        bin_of = np.searchsorted(edges, scores, side="left")
        groups = merged(bin_of, patients, bins=len(edges) + 1, min_patients=need)
        number = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        group = number[bin_of] if groups else np.zeros(len(scores), dtype=np.int64)
        sizes = [len(np.unique(patients[group == each])) for each in range(len(groups))]
        return cls(scores=scores, targets=targets, group=group, patients=np.array(sizes, dtype=np.int64))

    def risks(self) -> tuple[Floats, Floats]:
        """Mean predicted risk and share of events, each (G,)."""
        return self._means(self.group, len(self.patients))

    def calibration(self) -> tuple[Floats, Floats]:
        """The same of groups put together to about ten of equal size, each (P,)."""
        sizes = np.bincount(self.group, minlength=len(self.patients))[: len(self.patients)]
        middle = np.cumsum(sizes) - sizes / 2
        tenth = np.minimum((middle * POINTS / max(len(self.group), 1)).astype(np.int64), POINTS - 1)
        point = np.unique(tenth, return_inverse=True)[1]
        return self._means(point[self.group], len(np.unique(tenth))) if len(sizes) else (np.empty(0), np.empty(0))

    def decision(self) -> tuple[Floats, Floats]:
        """Thresholds and the net benefit at them (T,): events less others called, an other worth its odds.

        Vickers and Elkin, Med Decis Making 2006: TP / n - FP / n t / (1 - t). A threshold stands between two groups,
        on hundredths where one lies there, else on thousandths; where not even one of these does, on the nearest one.
        """
        found: dict[float, float] = {}
        for number in range(1, len(self.patients)):
            called = self.group >= number
            t = _between(float(self.scores[self.group == number - 1].max()), float(self.scores[called].min()))
            true, false = self.targets[called].sum(), (1 - self.targets[called]).sum()
            if 0 < t < 1:
                found.setdefault(t, float(true - false * t / (1 - t)) / len(self.group))
        return np.array(list(found)), np.array(list(found.values()))

    def _means(self, group: NDArray[np.int64], count: int) -> tuple[Floats, Floats]:
        sizes = np.bincount(group, minlength=count)[:count]
        x, y = (
            np.bincount(group, weights=each, minlength=count)[:count] / sizes for each in (self.scores, self.targets)
        )
        return x, y


def _between(below: float, from_: float) -> float:
    """A round number above the first and up to the second, as far as there is one."""
    for digits in (2, 3):
        unit = 10**digits
        middle = round((below + from_) / 2, digits)
        for t in (middle, math.floor(from_ * unit) / unit):
            if below < t <= from_:
                return t
    return middle


def merged(bin_of: Integers, patients: Integers, *, bins: int, min_patients: int) -> list[list[int]]:
    """Bins that are told together: one of fewer than ``min_patients`` patients with the next, the last with the former.

    Returns:
        Groups of bins in order, all bins once; none when all together are too small.
    """
    order = np.argsort(bin_of, kind="stable")
    ends = np.cumsum(np.bincount(bin_of, minlength=bins))[:-1]
    members = [set(part.tolist()) for part in np.split(patients[order], ends)]
    return joined(bins, lambda group: len(set().union(*(members[bin_] for bin_ in group))) >= min_patients)


def joined(bins: int, enough: Callable[[list[int]], bool]) -> list[list[int]]:
    """Bins in groups that are ``enough``, as `merged` says."""
    groups: list[list[int]] = []
    pending: list[int] = []
    for bin_ in range(bins):
        pending.append(bin_)
        if enough(pending):
            groups.append(pending)
            pending = []
    if groups:
        groups[-1] += pending
    return groups
