"""Which counts may be told to outsiders: no cell of 1 to 9 patients, told or to be had by subtraction.

A count is told exactly when at least 10 patients stand behind it and its difference to every count told of a set that
holds it is 0 or at least 10 patients. Parts of a whole are told so that what is left over never gives a hidden part
away: none is hidden, or at least two with 10 patients together. Counts whose set is not known (repairs) are told in
tens. For the hospital itself everything is exact. Two checks of a cohort that grew by a few patients in between differ
by those few: who shows both shows them.

Source: the rules of statistical disclosure control for frequency tables (Hundepool et al., Statistical Disclosure
Control, 2012, ch. 5), with the threshold of the project.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

FEW = 10  # patients
WITHHELD = "withheld"

Told = int | str
"""A count, or the words that stand for it: ``<10``, ``>190``, ``20+``, ``withheld``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Samples of the table, and what is told of their number.

    n: how many; rows: (N,) which samples of the cohort, None for rows of the table that the cohort does not know;
    wholes: groups that hold this one.
    """

    n: int
    told: Told
    rows: NDArray[np.bool_] | None = None
    wholes: tuple[Group, ...] = ()

    @property
    def exact(self) -> int | None:
        """The count, when it may be told."""
        return self.told if isinstance(self.told, int) else None


@dataclass(frozen=True, kw_only=True, eq=False)
class Teller:
    """Decides what is told of a cohort whose samples belong to ``patient`` (N,)."""

    patient: NDArray[np.int64]
    local: bool

    def rows(self, n: int, *wholes: Group) -> Group:
        """Rows of the table, of which only the number is known: each may be a patient."""
        return self._group(n, None, wholes, strict=False)

    def group(self, rows: NDArray[np.bool_], *wholes: Group, strict: bool = False) -> Group:
        """Samples of the cohort within every one of ``wholes``.

        Args:
            rows: (N,) bool.
            wholes: groups that hold it.
            strict: "all of the whole" is not told either (an outcome: it would be true of everybody).
        """
        return self._group(int(rows.sum()), rows, wholes, strict=strict)

    def parts(
        self,
        whole: Group,
        parts: Mapping[str, NDArray[np.bool_]],
        *,
        within: Mapping[str, tuple[Group, ...]] | None = None,
        strict: bool = False,
    ) -> dict[str, Group]:
        """Parts that make up ``whole``; ``within``: other groups that hold a part."""
        others = within or {}
        found = {name: self.group(rows, whole, *others.get(name, ()), strict=strict) for name, rows in parts.items()}
        if self.local:
            return found
        while not self._safe(whole, found, strict=strict):
            told = [name for name, group in found.items() if group.exact is not None]
            if not told:
                break
            smallest = min(told, key=lambda name: found[name].n)
            found[smallest] = replace(found[smallest], told=WITHHELD)
        return found

    def enough(self, rows: NDArray[np.bool_]) -> bool:
        """Whether statistics of these samples may be told: at least 10 patients, or the hospital itself asks."""
        return bool(rows.any()) if self.local else self._patients(rows) >= FEW

    def _group(self, n: int, rows: NDArray[np.bool_] | None, wholes: tuple[Group, ...], *, strict: bool) -> Group:
        return Group(n=n, told=self._told(n, rows, wholes, strict=strict), rows=rows, wholes=wholes)

    def _told(self, n: int, rows: NDArray[np.bool_] | None, wholes: tuple[Group, ...], *, strict: bool) -> Told:
        if self.local:
            return n
        if n < FEW:
            return f"<{FEW}"
        if rows is not None and self._patients(rows) < FEW:
            return WITHHELD
        for whole in _all(wholes):
            outside = self._outside(whole, n, rows)
            if whole.exact is not None and (0 < outside < FEW or (strict and outside == 0 and whole in wholes)):
                return f">{whole.n - FEW}" if whole.n - n < FEW else WITHHELD
        return n

    def _safe(self, whole: Group, found: Mapping[str, Group], *, strict: bool) -> bool:
        """Whether no hidden part, nor what lies beside the parts, can be had by subtracting those that are told."""
        hidden = [group for group in found.values() if group.exact is None and (group.n or strict)]
        if whole.exact is None and not hidden:
            return False  # all parts together would tell it
        if whole.exact is not None and len(hidden) == 1:
            return False
        told = [group.rows for group in found.values() if group.exact is not None and group.rows is not None]
        union = np.logical_or.reduce([np.zeros(len(self.patient), dtype=bool), *told])
        exact = [group for group in _all((whole,)) if group.exact is not None]
        return not any(0 < self._outside(group, int(union.sum()), union) < FEW for group in exact)

    def _outside(self, whole: Group, n: int, rows: NDArray[np.bool_] | None) -> int:
        """Patients of ``whole`` with samples outside the part; rows where patients are not known."""
        if whole.rows is None or rows is None:
            return whole.n - n
        return self._patients(whole.rows & ~rows)

    def _patients(self, rows: NDArray[np.bool_]) -> int:
        return len(np.unique(self.patient[rows]))


def _all(wholes: tuple[Group, ...]) -> list[Group]:
    """The groups, and those that hold them."""
    found: dict[int, Group] = {}
    for whole in wholes:
        for group in (whole, *_all(whole.wholes)):
            found[id(group)] = group
    return list(found.values())


def told_reasons(counts: Mapping[str, int], *, unlisted: int | None, local: bool) -> dict[str, Told]:
    """Reasons that make up a total which can be computed, without giving a small one away.

    Args:
        counts: reason -> rows, at least one each.
        unlisted: rows of the total that no reason tells; None: the total falls into stages, some of which are told.
        local: exact counts.
    """
    if local:
        return dict(counts)
    hidden = {reason for reason, n in counts.items() if n < FEW}
    if unlisted is None:
        hidden = set(counts) if hidden else hidden
    while unlisted is not None:
        left = unlisted + sum(counts[reason] for reason in hidden)
        open_ = set(counts) - hidden
        if not open_ or left == 0 or left >= FEW:
            break
        hidden.add(min(open_, key=lambda reason: counts[reason]))
    return {reason: n if reason not in hidden else f"<{FEW}" if n < FEW else WITHHELD for reason, n in counts.items()}


def missing(part: Group, whole: Group) -> Told:
    """Samples of the whole outside the part, as far as it can be computed from what is told."""
    if part.exact is not None and whole.exact is not None:
        return whole.exact - part.exact
    if part.n == whole.n:
        return 0  # of however many
    return f"<{FEW}" if whole.n - part.n < FEW else WITHHELD


def in_tens(n: int, *, local: bool) -> Told:
    """``23`` -> ``20+``: a count that overlaps with others in ways that nobody keeps book of."""
    return n if local else f"<{FEW}" if n < FEW else f"{n // FEW * FEW}+"


def share(part: Group, whole: Group) -> float | None:
    """Per cent to one decimal where both counts are told."""
    if part.exact is None or not whole.exact:
        return None
    return round(100 * part.exact / whole.exact, 1)


def coarse_share(n: int, of: int) -> int | None:
    """Per cent of a whole that is not told, too coarse to compute it: every size within ten has a part that fits."""
    step = 1 if of >= 200 else 5 if of >= 40 else 10 if of >= 20 else None
    return None if step is None else step * round(100 * n / of / step)
