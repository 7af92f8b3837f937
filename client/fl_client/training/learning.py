"""The model that a round ended with, judged in the light form of the learning curves (`fl_shared.learning`)."""

from __future__ import annotations

from fl_client.training.judge import Judge, Told, predict, segment
from fl_shared.counts import subsets
from fl_shared.learning import MODEL, learned, shown
from fl_shared.metrics.table import metrics_of
from fl_shared.models.interface import Batch
from fl_shared.models.model import MultimodalModel
from fl_shared.results import EvaluationRow, Findings


def light(judge: Judge, model: MultimodalModel, batch: Batch, *, known: Batch, round: int) -> Findings:
    """The headline metric of each task that the round trains, from the headline inputs of the held-out patients.

    Args:
        judge: study, site and cohort.
        model: what is judged.
        batch: all rows of the cohort.
        known: the same, with the features of the encoders that do not change: they are not run again.
        round: of the study.
    """
    study, rows, tasks = judge.study, judge.rows(), learned(judge.study, round)
    fused = {task: plan for task, plan in tasks.items() if plan.modality is None}
    drawn = {task: plan for task, plan in tasks.items() if plan.modality is not None}
    said: dict[str, Told] = {}
    if fused:
        name = shown(next(iter(fused.values())), study)
        told = predict(model, known, rows=rows, tasks=fused, subsets={name: subsets(study)[name]})[name]
        said |= dict.fromkeys(fused, told)
    if drawn:
        said |= dict.fromkeys(drawn, segment(model, batch, rows=rows, tasks=drawn))
    found: list[EvaluationRow] = []
    for task, plan in tasks.items():
        each, _ = judge.evaluate(task, said[task], modalities=shown(plan, study), model=MODEL)
        found += [row for row in each if row.metric == metrics_of(plan.type)[0]]
    return Findings(evaluation=tuple(found))
