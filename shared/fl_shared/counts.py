"""What is counted of a study's training patients: the names, shapes and cells of every count, and their sensitivity.

A patient is counted by one record, once in each histogram (a cell holds those without a value), so that adding or
removing a patient moves every histogram by one count: the L2 sensitivity of all together is the root of their number.
Site and coordinator read the same layout from the study; nothing of it depends on patients.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from fl_shared.concepts import Concept, concept, scale
from fl_shared.histograms import CELLS, Bins
from fl_shared.study import Study, TaskPlan
from fl_shared.task import RISKY

Schema = dict[str, tuple[tuple[int, ...], str]]
COUNT = "int64"
OUTCOMES = ("without", "with", "unknown")
LOGITS = Bins(low=-8.0, high=8.0, cells=64)
RISKS = Bins(low=0.0, high=1.0, cells=50)
BIASES = ("linear.bias", "linear.out.bias")  # of a head's outputs: of one map, of a small network


@dataclass(frozen=True, kw_only=True)
class FieldCount:
    """The histogram of one field; the last cell counts those without a value.

    Values are on the concept's scale (`fl_shared.concepts.scale`): bins are equal on the logarithm of a skewed one. A
    categorical concept has a cell a code.
    """

    modality: str
    concept: Concept

    @property
    def name(self) -> str:
        """Of the array."""
        return f"fields.{self.modality}.{self.concept.name}"

    @cached_property
    def codes(self) -> tuple[float, ...]:
        """Values of a categorical concept, rising; none of a quantity."""
        return tuple(sorted(set(self.concept.codes.values())))

    @cached_property
    def bins(self) -> Bins:
        """Of a quantity: over its plausible limits."""
        what = self.concept
        low, high, least, most = (math.log(x) if what.log else x for x in (what.low, what.high, what.min, what.max))
        first, last = (2 * (x - low) / (high - low) - 1 for x in (least, most))  # as `scale`, in double precision
        return Bins(low=first, high=last, cells=CELLS)

    @property
    def size(self) -> int:
        """Cells, with that of missing values."""
        return 1 + (len(self.codes) or self.bins.size)

    def cells(self, values: NDArray[np.floating], observed: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Cell (n,) of each scaled value (n,)."""
        if self.codes:
            known = scale(np.array(self.codes), by=self.concept)
            place = np.searchsorted((known[1:] + known[:-1]) / 2, values)
        else:
            place = self.bins.place(np.where(observed, values, 0.0))
        return np.where(observed, place, self.size - 1).astype(np.int64)


def field_counts(study: Study) -> tuple[FieldCount, ...]:
    """The fields whose values the study's statistics count."""
    named = study.statistics.modalities if study.statistics else ()
    return tuple(FieldCount(modality=m, concept=concept(field)) for m in named for field in study.modalities[m].fields)


def counted_tasks(study: Study) -> dict[str, TaskPlan]:
    """The tasks whose labels the study's statistics count."""
    return {task: study.tasks[task] for task in (study.statistics.tasks if study.statistics else ())}


def statistics_schema(study: Study) -> Schema:
    """Array -> shape and dtype. ``fields.*`` (size,); ``tasks.*`` (labels, 3) as `OUTCOMES`, or (classes + 1,)."""
    fields = {field.name: ((field.size,), COUNT) for field in field_counts(study)}
    return fields | {f"tasks.{task}": (_classes(plan), COUNT) for task, plan in counted_tasks(study).items()}


def statistics_sensitivity(study: Study) -> float:
    """L2 distance between the counts with and without any one patient."""
    tasks = counted_tasks(study).values()
    labels = sum(1 if plan.type == "multiclass" else len(plan.told) for plan in tasks)
    return math.sqrt(len(field_counts(study)) + labels)


def _classes(plan: TaskPlan) -> tuple[int, ...]:
    return (len(plan.labels) + 1,) if plan.type == "multiclass" else (len(plan.told), len(OUTCOMES))


def risky_tasks(study: Study) -> dict[str, TaskPlan]:
    """Tasks that predict a risk a label."""
    return {task: plan for task, plan in study.tasks.items() if plan.type in RISKY}


def output_biases(study: Study, names: Iterable[str]) -> dict[str, str]:
    """Task -> the array that its labels' logits are shifted by, of those named; none where the fusion predicts."""
    held = set(names)
    found = {task: [f"heads.{task}.{bias}" for bias in BIASES] for task in risky_tasks(study)}
    return {task: next(b for b in biases if b in held) for task, biases in found.items() if held & set(biases)}


def recalibration_schema(study: Study, tasks: Iterable[str]) -> Schema:
    """Array -> shape (labels, cells of `LOGITS` + 1) and dtype; the last cell counts the events."""
    return {f"tasks.{task}": ((len(study.tasks[task].told), LOGITS.size + 1), COUNT) for task in tasks}


def recalibration_sensitivity(study: Study, tasks: Iterable[str]) -> float:
    """A patient adds one count to a label's histogram of logits and at most one to its events."""
    return math.sqrt(2 * sum(len(study.tasks[task].told) for task in tasks))


def subsets(study: Study) -> dict[str, tuple[str, ...]]:
    """Name in the results -> modalities that the model sees."""
    names = tuple(study.modalities)
    alone = {name: (name,) for name in names} if len(names) > 1 else {}
    clean = tuple(name for name, plan in study.modalities.items() if not plan.leaky)
    headline = {"headline": clean} if clean and clean != names else {}
    sizes = range(2, len(names)) if study.evaluation.subsets == "every" else ()
    some = {"+".join(chosen): chosen for size in sizes for chosen in combinations(names, size)}
    kept = {name: chosen for name, chosen in some.items() if chosen not in headline.values()}
    return {**alone, **kept, "all": names, **headline}


def primary(study: Study) -> str:
    """The set of modalities whose results stand in front: those that do not state the diagnosis."""
    return "headline" if "headline" in subsets(study) else "all"


def risk_name(task: str, subset: str) -> str:
    """Of the array of a task's risks from a subset of modalities."""
    return f"risks.{task}.{subset}"


def risk_schema(study: Study) -> Schema:
    """Array -> shape (labels, without and with the event, cells of `RISKS`) and dtype; these never leave a site."""
    tasks, sets = risky_tasks(study).items(), subsets(study)
    return {risk_name(task, name): ((len(plan.told), 2, RISKS.cells), COUNT) for task, plan in tasks for name in sets}


def risk_sensitivity(study: Study) -> float:
    """A patient is in at most one cell of each label's histograms from each subset of modalities."""
    return math.sqrt(sum(shape[0] for shape, _ in risk_schema(study).values()))


def leaving(study: Study, role: str) -> tuple[str, ...]:
    """In words: the counts and results that leave a site of this role."""
    plan, found = study.evaluation, []
    if role == "train" and study.statistics is not None:
        fields, tasks = len(field_counts(study)), ", ".join(study.statistics.tasks)
        what = " and ".join(filter(None, (f"histograms of {fields} fields" if fields else "", tasks)))
        found.append(f"counts of training patients: {what} (once, before round 1; {_how(study.statistics.epsilon)})")
    if role == "train" and plan.recalibrate:
        how = _how(plan.recalibrate_epsilon)
        found.append(f"counts of training patients' predicted risks and events (once, after the last round; {how})")
    if role == "train" and plan.every:
        often = f"every {plan.every} rounds" if plan.every > 1 else "every round"
        found.append(f"the headline metric of each task ({often} that trains it; of held-out patients, aggregates)")
    noised = f"metrics (noised: epsilon {plan.epsilon:g} of the judged patients)" if plan.epsilon else ""
    compared = study.judged is not None and study.judged.against is not None
    differences = ("differences of two models' metrics",) if compared else ()
    subgroups = f"metrics of groups by {', '.join(plan.subgroups)} (10 patients or more)" if plan.subgroups else ""
    flow = "" if role == "train" and study.privacy.mode != "none" else " and the flow"
    table = f"Table 1{flow} of the judged patients (aggregates)" if plan.described else ""
    more = filter(None, (subgroups, table))
    return (*found, noised or "metrics and curves (aggregates)", *differences, *more)


def _how(epsilon: float | None) -> str:
    return f"noised: epsilon {epsilon:g}" if epsilon else "exact, small cells withheld"
