"""Counts that leave together tell by subtraction what lies between them: of no cell of 1 to 9 patients.

The gate sees samples, of which a patient may have several: it refuses what must be wrong. What is told is decided where
patients are known (`fl_shared.metrics.disclosure`, `fl_client.training.subgroups`, `fl_client.training.described`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from fl_client.egress_refused import EgressRefusedError
from fl_shared import asked
from fl_shared.between import tells_small
from fl_shared.counts import primary
from fl_shared.metrics.disclosure import MIN_CELL
from fl_shared.results import Attention, Described, EvaluationRow, Flow
from fl_shared.site import Site
from fl_shared.study import TIMED, Study, TaskPlan
from fl_shared.subgroups import headline_modalities
from fl_shared.task import CLASSED
from fl_shared.wire import Code

SMALL = f"a cell below {MIN_CELL} patients by subtraction"
SUPPRESSED = f"suppressed: fewer than {MIN_CELL} patients"
EVENTFUL = (*CLASSED, *TIMED)
_Label = tuple[str, str, str, str, str]


def check_counts(rows: Sequence[EvaluationRow], study: Study) -> None:
    """Numbers of events of the labels of a task, in the same patients."""
    told: dict[tuple[str, ...], dict[str, EvaluationRow]] = {}
    for row in rows:
        if row.events is not None:
            labels = told.setdefault((row.task, row.modalities, row.model, row.subgroup), {})
            if labels.setdefault(row.label, row).events != row.events:
                raise EgressRefusedError("two numbers of events of one label", Code.TOO_FEW)
    for (task, *_), labels in told.items():
        counts = {label: row.events or 0 for label, row in labels.items()}
        if any(cell < MIN_CELL for cell in _between(study.tasks[task], counts, min(r.n or 0 for r in labels.values()))):
            raise EgressRefusedError(SMALL, Code.TOO_FEW)


def _between(plan: TaskPlan, events: Mapping[str, int], n: int) -> list[int]:
    """Cells that the numbers of events tell besides themselves."""
    if plan.type == "survival":  # by two days: those in between
        days = dict(zip(plan.told, (plan.horizon, *plan.told_at), strict=True))
        by_day = sorted({(days[label], count) for label, count in events.items()})
        return [later[1] - earlier[1] for earlier, later in pairwise(by_day)]
    if plan.type == "competing" or (plan.type == "multiclass" and events.keys() < set(plan.told)):
        return [n - sum(events.values())]  # they exclude one another: the others
    return []


def check_subgroups(rows: Sequence[EvaluationRow], study: Study) -> None:
    """Groups stand within a released whole, and what they leave of it is nobody or no small cell.

    Where inputs are hidden the patients are the same ones.
    """
    wholes = {_label(row): row for row in rows if not row.subgroup}
    groups: dict[tuple[_Label, str], dict[str, EvaluationRow]] = defaultdict(dict)
    for row in rows:
        if not row.subgroup or row.n is None:
            continue
        whole = wholes.get(_label(row))
        if whole is None or whole.n is None:
            raise EgressRefusedError("a subgroup without its whole")
        variable = row.subgroup.partition("=")[0]
        if variable not in study.evaluation.subgroups:
            if (row.n, row.events) != (whole.n, whole.events):
                raise EgressRefusedError("hidden inputs of other patients", Code.TOO_FEW)
            continue
        untold = row.events is None and row.label != "macro" and study.tasks[row.task].type in EVENTFUL
        if row.n < MIN_CELL or (row.value is not None and untold):
            raise EgressRefusedError(f"a group below {MIN_CELL} patients", Code.TOO_FEW)
        groups[_label(row), variable][row.subgroup] = row
    left: dict[tuple[str, ...], dict[str, tuple[int, int]]] = defaultdict(dict)
    for (key, variable), parts in groups.items():
        rest = _rest(wholes[key], parts.values())
        task, label, modalities, model, _ = key
        left[task, modalities, model, variable, *sorted(parts)][label] = rest
    for (task, *_), by_label in left.items():
        events = {label: told for label, (n, told) in by_label.items() if n and label != "macro"}
        n = min((n for n, _ in by_label.values()), default=0)
        if events and any(cell < MIN_CELL for cell in _between(study.tasks[task], events, n)):
            raise EgressRefusedError(SMALL, Code.TOO_FEW)


def _label(row: EvaluationRow) -> _Label:
    return row.task, row.label, row.modalities, row.model, row.metric


def _rest(whole: EvaluationRow, parts: Iterable[EvaluationRow]) -> tuple[int, int]:
    """Samples and events of the whole that are in none of the told parts."""
    found = list(parts)
    rest = (whole.n or 0) - sum(row.n or 0 for row in found)
    if rest < 0 or 0 < rest < MIN_CELL:
        raise EgressRefusedError(SMALL, Code.TOO_FEW)
    if whole.events is None or any(row.events is None for row in found):
        return rest, 0
    events = whole.events - sum(row.events or 0 for row in found)
    if (events or rest) and not MIN_CELL <= events <= rest - MIN_CELL:
        raise EgressRefusedError(SMALL, Code.TOO_FEW)
    return rest, events


def check_sets(rows: Sequence[EvaluationRow], study: Study, min_patients: int) -> None:
    """Numbers of samples of sets of modalities: between two of them is no small cell; noised ones tell none."""
    if study.evaluation.epsilon is None and tells_small(rows, study, least=max(MIN_CELL, min_patients)):
        raise EgressRefusedError(SMALL, Code.TOO_FEW)


def check_attention(parts: Sequence[Attention], rows: Sequence[EvaluationRow], study: Study) -> None:
    """Parts of a whole: all modalities of the headline's or none, of as many samples as are told besides."""
    told: dict[str, dict[str, float]] = defaultdict(dict)
    for part in parts:
        if not asked.attention_asked(part, study):
            raise EgressRefusedError("attention that the study does not ask for, or no share")
        if part.note != ("" if part.value is not None else SUPPRESSED):
            raise EgressRefusedError("a note that is not in the list")
        of = [row.n for row in rows if (row.modalities, row.model, row.subgroup) == (primary(study), part.model, "")]
        if part.n != max((n for n in of if n is not None), default=None) or (part.n is None and part.value is not None):
            raise EgressRefusedError("attention of other samples than those that are judged", Code.TOO_FEW)
        if part.value is not None:
            told[part.model][part.modality] = part.value
    every = headline_modalities(study.modalities)
    for values in told.values():
        if values.keys() != set(every):
            raise EgressRefusedError("attention to some modalities tells that to the others", Code.TOO_FEW)
        if abs(sum(values.values()) - 1) > len(every) * 0.5 * 10**-asked.SHARE_DIGITS + 1e-9:
            raise EgressRefusedError("attention that is no part of a whole")


def check_described(parts: Sequence[Described], study: Study, site: Site) -> None:
    """Numbers of Table 1: asked for, coarse, and no category alone withheld."""
    withheld: dict[str, list[bool]] = defaultdict(list)
    for part in parts:
        own = site.subgroups.get(part.variable)
        if not asked.described_asked(part, study) or (own and part.category not in {"", *own.groups}):
            raise EgressRefusedError("a number of Table 1 that the study does not ask for")
        if part.note != ("" if part.value is not None else SUPPRESSED):
            raise EgressRefusedError("a note that is not in the list")
        if part.statistic == "share" and part.category:
            withheld[part.variable].append(part.value is None)
    for variable, each in withheld.items():
        exclusive = not variable.startswith("outcome ") or study.tasks[variable.split()[1]].type == "multiclass"
        if exclusive and sum(each) == 1 and len(each) > 1:
            raise EgressRefusedError(SMALL, Code.TOO_FEW)


def check_flow(parts: Sequence[Flow], rows: Sequence[EvaluationRow], study: Study) -> None:
    """Numbers of the flow: no small one, and none between two stages or between a stage and what was judged."""
    if any(not asked.flow_asked(part, study) for part in parts):
        raise EgressRefusedError("a stage that the study does not ask for")
    for part in parts:
        if any(count is not None and count < MIN_CELL for count in (part.samples, part.patients)):
            raise EgressRefusedError(f"a stage below {MIN_CELL} patients", Code.TOO_FEW)
        if part.samples is not None and part.patients is not None and part.patients > part.samples:
            raise EgressRefusedError("more patients than samples")
    stages = {part.stage: part for part in parts}
    ordered = [stages[name] for name in asked.STAGES if name in stages]
    judged = {row.n for row in rows if row.n is not None and not row.subgroup}
    for counts in ([part.samples for part in ordered], [part.patients for part in ordered]):
        known = [count for count in counts if count is not None]
        if any(not _apart(earlier, later) for earlier, later in pairwise(known)):
            raise EgressRefusedError(SMALL, Code.TOO_FEW)
    if any(part.samples is not None and not _apart(part.samples, n) for part in ordered for n in judged):
        raise EgressRefusedError(SMALL, Code.TOO_FEW)


def _apart(whole: int, part: int) -> bool:
    """Whether what is left is nobody or no small cell."""
    return whole == part or whole - part >= MIN_CELL
