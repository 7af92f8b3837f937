"""What may be told of each set of modalities beside the others: no number by which a few patients follow.

n of the headline's inputs is always told, then that of ``all``, then those of single modalities, the largest first. Of
a set that differs from a told one by 1 to 9 patients (`fewest` if that is more) n is told as that of the told one, and
the number of events, curves and metrics that tell it are withheld; the other values stay. The number of events alone
is withheld where a cell between two sets has few with, or without, the event. A set for which neither will do tells
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from fl_client.training.judge import Judge, Told
from fl_client.training.subgroups import told_groups
from fl_shared.between import Count, small
from fl_shared.counts import primary, subsets
from fl_shared.metrics.disclosure import MIN_CELL, Cell
from fl_shared.results import Curve, Difference, EvaluationRow
from fl_shared.study import Study
from fl_shared.subgroups import PAIRED, PAIRS

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]
Row = TypeVar("Row", EvaluationRow, Difference)
CELL = "it would tell a cell of fewer than {} patients"
BOTH = f"{PAIRED}=yes"
NOTHING = {"value": None, "ci_low": None, "ci_high": None, "n": None, "events": None}


@dataclass(frozen=True, kw_only=True)
class Limit:
    """What may be said of a label from a set. n: what is told, where it is near. events: whether they may be told."""

    told: Literal["exact", "near", "nothing"] = "exact"
    n: int | None = None
    events: bool = True


Limits = Mapping[str, Limit]
"""Label, or ``macro`` -> limit."""


def limits(judge: Judge, task: str, said: Mapping[str, Told]) -> dict[str, Limits]:
    """Set of modalities -> limits, of the sets that have samples of their own."""
    plan, whole, names = judge.study.tasks[task], said["all"], _ordered(judge.study, said)
    if len(names) == 1:
        return {names[0]: dict.fromkeys((*plan.told, "macro"), Limit())}
    inside = {name: np.isin(whole.rows, said[name].rows) for name in names}
    paired, labels = _paired(judge, task, said[primary(judge.study)], whole)
    found: dict[str, dict[str, Limit]] = {name: {} for name in names}

    def look(label: str, known: Mask, outcome: Floats | None) -> None:
        first, *others = names
        masks = {first: inside[first]} | ({BOTH: paired} if label in labels else {}) | {n: inside[n] for n in others}
        beside = _Beside(judge=judge, patients=judge.cohort.patient[whole.rows], known=known, outcome=outcome)
        for name, limit in beside.limits(masks).items():
            found[name][label] = limit

    parts = judge.parts(task, whole)
    for part in parts:
        outcome = np.full(len(part.known), np.nan)
        if part.cell.outcome is not None:
            outcome[part.known] = part.cell.outcome
        look(part.cell.label, part.known, outcome if part.cell.outcome is not None else None)
    if plan.type != "multilabel":  # they exclude one another, or lie within one another
        for each in found.values():
            events = all(limit.events for limit in each.values())
            each |= {label: replace(limit, events=events) for label, limit in each.items()}
    if len(plan.labels) > 1:
        head = [part for part in parts if part.cell.label in plan.headline or not plan.headline]
        look("macro", np.any([part.known for part in head], axis=0), None)
        for each in found.values():
            if any(each[part.cell.label].told == "nothing" for part in head):
                each["macro"] = Limit(told="nothing", events=False)
    return {**found}


def evaluate(
    judge: Judge, task: str, said: Told, within: Limits, *, modalities: str, model: str
) -> tuple[list[EvaluationRow], list[Curve]]:
    """Rows and curves of one task from one set of modalities, as far as they may be told beside the other sets."""
    rows, curves = judge.evaluate(task, said, modalities=modalities, model=model, gives_away=silent(within))
    return [_as_told(row, within[row.label], judge) for row in rows], curves


def silent(within: Limits) -> frozenset[str]:
    """Labels whose number of events is withheld."""
    return frozenset(label for label, limit in within.items() if not limit.events)


def difference(part: Difference, within: Limits, judge: Judge) -> Difference:
    """A difference of two models, as far as the rows beside it are told."""
    told = _as_told(part, within[part.label], judge)
    return told if told.value is not None else told.model_copy(update={"p": None, "test": ""})


def _as_told(row: Row, limit: Limit, judge: Judge) -> Row:
    if row.n is None or limit.told == "exact":
        return row
    least = fewest(judge)
    if limit.told == "nothing":
        nothing = {name: None for name in NOTHING if name in type(row).model_fields}
        return row.model_copy(update=nothing | {"note": f"suppressed: {CELL.format(least)}"})
    note = f"n as told of other inputs: fewer than {least} patients apart"
    return row.model_copy(update={"n": limit.n, "note": "; ".join(filter(None, (row.note, note)))})


def fewest(judge: Judge) -> int:
    """Patients below whom a cell between two sets is small."""
    return max(MIN_CELL, judge.fewest)


def _ordered(study: Study, said: Mapping[str, Told]) -> list[str]:
    """Sets with samples of their own, those that are told first at the front."""
    front = tuple(dict.fromkeys((primary(study), "all")))
    alone = [name for name in subsets(study) if name not in front and "+" not in name]
    return [*front, *sorted(alone, key=lambda name: -len(said[name].rows))]


def _paired(judge: Judge, task: str, said: Told, whole: Told) -> tuple[Mask, frozenset[str]]:
    """Samples with every modality of the headline's, and the labels of which their number is told or follows."""
    groups, plan = judge.cohort.groups, judge.study.tasks[task]
    if PAIRED not in judge.study.evaluation.subgroups or PAIRED not in groups:
        return np.zeros(len(whole.rows), dtype=bool), frozenset()
    told = told_groups(judge, task, said, {name: groups[PAIRED][said.rows] == name for name in PAIRS})
    labels = {label for label, names in told.items() if names}
    if labels >= set(plan.headline or plan.told):
        labels.add("macro")
    return np.isin(whole.rows, said.rows) & (groups[PAIRED][whole.rows] == "yes"), frozenset(labels)


@dataclass(frozen=True, kw_only=True)
class _Beside:
    """One label in the rows of ``all`` (N,): whose they are, where it is known, its outcome if it has events."""

    judge: Judge
    patients: NDArray[np.int64]
    known: Mask
    outcome: Floats | None

    def limits(self, inside: Mapping[str, Mask]) -> dict[str, Limit]:
        """Set -> limit; of each set in turn beside those before it, the first of which is told whatever follows."""
        found: dict[str, Limit] = {}
        told: dict[str, Count] = {}
        exact: dict[str, Mask] = {}
        eventful: dict[str, Mask] = {}
        for name, mask in inside.items():
            here = mask & self.known
            cell = self._cell(here)
            if cell.n is None:
                found[name] = Limit()
                continue
            given = not told or name == BOTH  # which subgroups have looked after
            limit, count = self._limit(name, here, told, exact) if not given else (Limit(), (cell.n, None))
            with_events = {name: (count[0], cell.events)}
            if limit.told == "exact" and cell.events is not None:
                fine = self._fine(here, eventful, self._large) and not self._small(told | with_events)
                limit = limit if given or fine else replace(limit, events=False)
                if limit.events:
                    count, eventful = with_events[name], eventful | {name: here}
            exact |= {name: here} if limit.told == "exact" else {}
            told |= {name: count} if limit.told != "nothing" else {}
            found[name] = limit
        return {name: limit for name, limit in found.items() if name != BOTH}

    def _limit(
        self, name: str, here: Mask, told: Mapping[str, Count], exact: Mapping[str, Mask]
    ) -> tuple[Limit, Count]:
        n = int(here.sum())
        if self._fine(here, exact, self._many) and not self._small({**told, name: (n, None)}):
            return Limit(), (n, None)
        apart = {other: self._number(here ^ mask) for other, mask in exact.items()}
        for other in sorted(apart, key=lambda each: apart[each]):
            count = told[other][0], None
            if apart[other] < fewest(self.judge) and not self._small({**told, name: count}):
                return Limit(told="near", n=count[0], events=False), count
        return Limit(told="nothing", events=False), (n, None)

    def _fine(self, here: Mask, others: Mapping[str, Mask], may: Callable[[Mask], bool]) -> bool:
        """Whether every cell that follows from this set's number beside the others' may be told."""
        return all(may(cell) for cell in _cells(here, [*others.values()]))

    def _small(self, told: Mapping[str, Count]) -> bool:
        return small(told, self.judge.study, least=fewest(self.judge))

    def _number(self, cell: Mask) -> int:
        return len(np.unique(self.patients[cell]))

    def _many(self, cell: Mask) -> bool:
        return self._number(cell) in (0, *range(fewest(self.judge), len(cell) + 1))

    def _large(self, cell: Mask) -> bool:
        return not cell.any() or (self._number(cell) >= MIN_CELL and self._cell(cell, least=2).events is not None)

    def _cell(self, rows: Mask, least: int | None = None) -> Cell:
        outcome = None if self.outcome is None else self.outcome[rows]
        return Cell(label="", patients=self.patients[rows], min_patients=least or self.judge.fewest, outcome=outcome)


def _cells(here: Mask, others: Sequence[Mask]) -> Iterator[Mask]:
    """Samples whose number follows: in one of two sets, where one holds the other; in both, where both are told too."""
    for one in others:
        if not (here & ~one).any() or not (one & ~here).any():
            yield here ^ one
    for one, two in combinations(others, 2):
        for a, b, whole in ((here, one, two), (here, two, one), (one, two, here)):
            if np.array_equal(a | b, whole) and (a & ~b).any() and (b & ~a).any():
                yield a & b
