"""Two finished models on the same patients of a site: what is told of the first, and how it differs from the second."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fl_client.training import between
from fl_client.training.contributions import filled
from fl_client.training.judge import Judge, Told, predict, segment
from fl_shared.counts import subsets
from fl_shared.judged import AGAINST, apart
from fl_shared.metrics.paired import paired_differences
from fl_shared.models.interface import Batch
from fl_shared.models.model import MultimodalModel
from fl_shared.results import Difference, Findings
from fl_shared.wire import Arrays

if TYPE_CHECKING:
    from fl_client.training.loop import Trainer

Places = NDArray[np.int64]
Said = Mapping[tuple[str, str], Told]
"""(set of modalities, task) -> what a model says."""


def judge_pair(first: Trainer, second: Trainer, *, arrays: Arrays, name: str) -> Findings:
    """What is told of the first model, with its differences to the second.

    Differences are told where the second model can read every sample that the first is told of: a difference of fewer
    would tell of patients of whom no number is released. A first model without inputs that state the diagnosis is
    compared with what the second says without them.

    Args:
        first: of the study's own model.
        second: of the model that it is compared with.
        arrays: of both, as `fl_shared.judged.travelling` names them.
        name: of the first, in the results.
    """
    own, other = apart(arrays)
    judge, model, batch = first.finished(own)
    one = said(judge, model, batch)
    beside, model, batch = second.finished(other)
    two = said(beside, model, batch)
    if all(not plan.leaky for plan in judge.study.modalities.values()):
        two = two | {("all", task): told for (subset, task), told in two.items() if subset == "headline"}
    found = first.evaluate(arrays=own, name=name)
    ids = beside.cohort.sample_ids
    return found.model_copy(update={"differences": tuple(_differences(judge, one, two, ids=ids, name=name))})


def said(judge: Judge, model: MultimodalModel, batch: Batch) -> dict[tuple[str, str], Told]:
    """Predictions of every task from every set of modalities, of the judged patients."""
    fused = {task: plan for task, plan in judge.study.tasks.items() if plan.modality is None}
    drawn = {task: plan for task, plan in judge.study.tasks.items() if plan.modality is not None}
    rows = judge.rows()
    found = predict(model, batch, rows=rows, tasks=fused, subsets=subsets(judge.study)) if fused else {}
    found = {name: filled(part, found["all"]) if "+" in name else part for name, part in found.items()}
    told = {(subset, task): part for subset, part in found.items() for task in fused}
    if drawn:
        masks = segment(model, batch, rows=rows, tasks=drawn)
        told |= {("all", task): masks for task in drawn}
    return told


def _differences(judge: Judge, one: Said, two: Said, *, ids: Sequence[str], name: str) -> Iterator[Difference]:
    """``ids``: of the second cohort's samples."""
    study, site, cohort = judge.study, judge.site, judge.cohort
    fused = [task for task, plan in study.tasks.items() if plan.modality is None]
    views = {name: {subset: told for (subset, task), told in one.items() if task == name} for name in fused}
    near = {task: between.limits(judge, task, said) for task, said in views.items()}
    for (subset, task), told in one.items():
        within = near[task]["all" if "+" in subset else subset] if task in near else {}
        against = two.get((subset, task))
        if against is None:
            continue
        there = _found(told, against, ids=cohort.sample_ids, against_ids=ids)
        if len(there) < len(told.rows) or not _same(told, against, task, there):
            continue
        differences = paired_differences(
            site=site.name,
            role=study.sites[site.name].role,
            task=task,
            plan=study.tasks[task],
            modalities=subset,
            model=name,
            against=AGAINST,
            predictions=told.predictions[task],
            predictions_against=against.predictions[task][there],
            targets=told.targets[task],
            mask=told.mask[task],
            patients=cohort.patient[told.rows],
            bootstrap=study.evaluation.bootstrap,
            seed=study.seed,
            min_patients=judge.fewest,
            gives_away=between.silent(within),
        )
        yield from (between.difference(each, within, judge) if within else each for each in differences)


def _found(one: Told, two: Told, *, ids: Sequence[str], against_ids: Sequence[str]) -> Places:
    """Where the first's samples stand in the second, in the order of the first; those that it cannot read are left."""
    first, second = np.array(ids, dtype=str)[one.rows], np.array(against_ids, dtype=str)[two.rows]
    _, here, there = np.intersect1d(first, second, assume_unique=True, return_indices=True)
    return there[np.argsort(here)]


def _same(one: Told, two: Told, task: str, there: Places) -> bool:
    """Whether both know the same outcomes of these samples."""
    return np.array_equal(one.mask[task], two.mask[task][there]) and np.array_equal(
        one.targets[task], two.targets[task][there], equal_nan=True
    )
