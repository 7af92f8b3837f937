"""What the numbers of samples of several sets of modalities tell together: those who lack some of them, or have both.

A sample without any of a set's modalities is left out of that set. So of two sets, one within the other, the numbers
tell who lacks the smaller; of two sets and of both together, who is in each of the two; of a set and of those with
every modality of the headline's (``paired``), who lacks another. None of these may be 1 to 9 patients.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

from fl_shared.counts import primary, subsets
from fl_shared.metrics.disclosure import MIN_CELL
from fl_shared.results import EvaluationRow
from fl_shared.study import Study
from fl_shared.subgroups import PAIRED, headline_modalities

Count = tuple[int, int | None]
"""Samples, and those of them with the event as far as told."""


def tells_small(rows: Iterable[EvaluationRow], study: Study, *, least: int) -> bool:
    """Whether rows of one site tell a cell of fewer than ``least`` samples between sets of modalities."""
    told: dict[tuple[str, str], dict[str, dict[str, Count]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        name, wanted = _place(row), study.tasks[row.task].modality is None
        if not wanted or name is None or row.n is None:
            continue
        here = told[row.task, row.label][row.model]
        count = row.n, row.events
        if name in here and _apart(here[name], count, least):
            return True
        if name not in here or here[name][1] is None:
            here[name] = count
    return any(_models_tell(models, study, least) for models in told.values())


def small(told: Mapping[str, Count], study: Study, *, least: int) -> bool:
    """The same of one label and model: set of modalities (``paired=yes``, ``paired=no``) -> what is told of it."""
    counts, shown = dict(told), primary(study)
    no = counts.pop(f"{PAIRED}=no", None)
    if no is not None and f"{PAIRED}=yes" not in counts and shown in counts:
        counts[f"{PAIRED}=yes"] = counts[shown][0] - no[0], None  # by subtraction
    of = subsets(study)
    within = ((a, b) for a in counts for b in counts if a != b and _within(a, b, study))
    both = ((a, b, u) for a, b, u in _unions({name: frozenset(of[name]) for name in counts if name in of}))
    return any(_cell(_less(counts[b], counts[a]), least) for a, b in within) or any(
        _cell(_less(_more(counts[a], counts[b]), counts[u]), least) for a, b, u in both
    )


def _place(row: EvaluationRow) -> str | None:
    """Whose number a row tells; sets between one modality and all are judged on the samples of ``all``."""
    if row.subgroup:
        return row.subgroup if row.subgroup.startswith(f"{PAIRED}=") else None
    return "all" if "+" in row.modalities else row.modalities


def _models_tell(models: Mapping[str, Mapping[str, Count]], study: Study, least: int) -> bool:
    """Of several models of the same patients."""
    numbers: dict[str, list[int]] = defaultdict(list)
    for counts in models.values():
        for name, (n, _) in counts.items():
            numbers[name].append(n)
    apart = any(0 < abs(a - b) < least for each in numbers.values() for a, b in combinations(each, 2))
    return apart or any(small(counts, study, least=least) for counts in models.values())


def _within(one: str, other: str, study: Study) -> bool:
    """Whether every sample of one set is in the other, whatever the patients have."""
    of = subsets(study)
    if other not in of:
        return False
    if one == f"{PAIRED}=yes":
        return bool(set(of[other]) & set(headline_modalities(study.modalities)))
    return one in of and set(of[one]) < set(of[other])


def _unions(members: Mapping[str, frozenset[str]]) -> Iterator[tuple[str, str, str]]:
    for a, b in combinations(members, 2):
        for u, whole in members.items():
            if u not in (a, b) and members[a] | members[b] == whole:
                yield a, b, u


def _less(one: Count, other: Count) -> Count:
    return one[0] - other[0], None if one[1] is None or other[1] is None else one[1] - other[1]


def _more(one: Count, other: Count) -> Count:
    return one[0] + other[0], None if one[1] is None or other[1] is None else one[1] + other[1]


def _apart(one: Count, other: Count, least: int) -> bool:
    return 0 < abs(one[0] - other[0]) < least


def _cell(count: Count, least: int) -> bool:
    """Whether this is a cell that may not be told: nobody is none."""
    n, events = count
    if n < 0 or 0 < n < least:
        return True
    if events is None or (n == 0 and events == 0):
        return False
    return not MIN_CELL <= events <= n - MIN_CELL
