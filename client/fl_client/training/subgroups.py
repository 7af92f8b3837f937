"""Results of subgroups of the judged patients: age, sex, groups that the site defines.

A group is told of a label where 10 patients or more are in it, and of an outcome 10 with and 10 without the event; what
all told groups leave of the whole (small groups, and patients of none) is nobody, or as large: otherwise the smallest
told group is withheld with it. A variable of which one group is the whole is not told.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fl_client.training.judge import Judge, Told
from fl_shared.metrics.disclosure import MIN_CELL, Cell
from fl_shared.results import EvaluationRow
from fl_shared.site import Site
from fl_shared.study import EvaluationPlan
from fl_shared.subgroups import AGE, PAIRED, PAIRS, age_groups, concept_words, grouped_concept

FEW = f"suppressed: fewer than {MIN_CELL} patients in a group, with, or without, the event"


def groups_of(variable: str, plan: EvaluationPlan, site: Site) -> tuple[str, ...]:
    """Names of a variable's groups, in their order."""
    if variable == AGE:
        return age_groups(plan.age_edges)
    if variable == PAIRED:
        return PAIRS
    known = grouped_concept(variable)
    return tuple(concept_words(known).values()) if known is not None else site.subgroups[variable].groups


def subgroup_rows(judge: Judge, task: str, said: Told, *, modalities: str, model: str) -> list[EvaluationRow]:
    """Rows of every subgroup of every variable that the study asks for and the site has."""
    found: list[EvaluationRow] = []
    for variable in judge.study.evaluation.subgroups:
        if variable in judge.cohort.groups:
            names = groups_of(variable, judge.study.evaluation, judge.site)
            mine = judge.cohort.groups[variable][said.rows]
            told = told_groups(judge, task, said, {name: mine == name for name in names})
            for name in names:
                rows, _ = judge.evaluate(task, said.some(mine == name), modalities=modalities, model=model)
                found += [_as_told(row, f"{variable}={name}", told, name, judge) for row in rows]
    return found


def told_groups(judge: Judge, task: str, said: Told, groups: dict[str, NDArray[np.bool_]]) -> dict[str, frozenset[str]]:
    """Label -> the groups, each (n,) bool over the rows, that are told of it."""
    whole = _cells(judge, task, said)
    each = {name: _cells(judge, task, said.some(inside)) for name, inside in groups.items()}
    found = {}
    for label, cell in whole.items():
        told = [name for name in groups if _large(each[name][label])] if _told_of(cell) else []
        told = [name for name in told if each[name][label].n != cell.n]
        while told and not _leaves_enough(judge, task, said, [groups[name] for name in told], label):
            told.remove(min(told, key=lambda name: each[name][label].cohort))
        found[label] = frozenset(told)
    return found


def _cells(judge: Judge, task: str, said: Told) -> dict[str, Cell]:
    return {part.cell.label: part.cell for part in judge.parts(task, said)}


def _told_of(cell: Cell) -> bool:
    """Whether a whole can have groups: where its events are withheld, so would be theirs."""
    return not cell.withheld and (cell.outcome is None or cell.events is not None)


def _large(cell: Cell) -> bool:
    return cell.cohort >= MIN_CELL and _told_of(cell)


def _leaves_enough(judge: Judge, task: str, said: Told, told: Sequence[NDArray[np.bool_]], label: str) -> bool:
    """Whether the patients of no told group are none, or as many as a group needs."""
    rest = _cells(judge, task, said.some(~np.logical_or.reduce(told)))[label]
    return rest.cohort == 0 or _large(rest)


def _as_told(
    row: EvaluationRow, subgroup: str, told: dict[str, frozenset[str]], name: str, judge: Judge
) -> EvaluationRow:
    """The row under its subgroup's name, without numbers where it may not be told."""
    plan = judge.study.tasks[row.task]
    labels: Iterable[str] = (row.label,) if row.label != "macro" else plan.headline or plan.told
    if all(name in told[label] for label in labels):
        return row.model_copy(update={"subgroup": subgroup})
    nothing = {"value": None, "ci_low": None, "ci_high": None, "n": None, "events": None, "note": FEW}
    return row.model_copy(update={"subgroup": subgroup} | nothing)
