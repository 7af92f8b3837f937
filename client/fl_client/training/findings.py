"""Everything that a study asks of a judged model at one site, from one run of each encoder."""

from __future__ import annotations

from collections.abc import Mapping

from fl_client.training import between
from fl_client.training.attention import attention
from fl_client.training.contributions import contributions, filled
from fl_client.training.described import described
from fl_client.training.flow import flow
from fl_client.training.hidden import hidden_inputs
from fl_client.training.importance import dropped_fields, importance, shown_without
from fl_client.training.judge import RECALIBRATED, Judge, Told, predict, segment
from fl_client.training.subgroups import subgroup_rows
from fl_shared.asked import tells_flow
from fl_shared.counts import primary, subsets
from fl_shared.models.interface import Batch
from fl_shared.models.model import MultimodalModel
from fl_shared.results import Attention, Contribution, Curve, EvaluationRow, Findings, Importance


def judged(judge: Judge, model: MultimodalModel, batch: Batch, *, name: str, whole: bool = True) -> Findings:
    """Rows and curves of every set of modalities and every task, and what else the study asks for.

    A training site is judged on its held-out patients, an external site on all. A row without any of a set's modalities
    is left out of that set; but of the sets between one modality and all (evaluation.subsets = 'every') all are judged
    on the rows of ``all``, as contributions are. What numbers of two sets would tell of a few patients is withheld
    (`fl_client.training.between`). Segmentations see their own modality only: told once, as ``all``.

    Args:
        judge: study, site and cohort.
        model: what is judged.
        batch: all rows of the cohort.
        name: of the model, in the results.
        whole: with subgroups, hidden inputs, contributions, attention and the worth of groups of fields.
    """
    rows, asked, study = judge.rows(), judge.tasks(name), judge.study
    fused = {task: plan for task, plan in asked.items() if plan.modality is None}
    drawn = {task: plan for task, plan in asked.items() if plan.modality is not None}
    evaluation: list[EvaluationRow] = []
    curves: list[Curve] = []
    more: list[Contribution] = []
    worth: list[Importance] = []
    weighed: list[Attention] = []
    if fused:
        sets = subsets(study)
        hidden = hidden_inputs(judge.cohort, study) if whole and study.evaluation.hidden else {}
        dropped = dropped_fields(study) if whole else {}
        every = whole and study.evaluation.subsets == "every"
        said = predict(
            model,
            batch,
            rows=rows,
            tasks=fused,
            subsets=sets,
            hidden=hidden | shown_without(judge.cohort, study, dropped),
            dropped=dropped,
            shares_of=primary(study) if every and name != RECALIBRATED else None,  # which moves logits only
        )
        near = {task: between.limits(judge, task, said) for task in fused}
        for subset in sets:
            inner = "+" in subset
            told = filled(said[subset], said["all"]) if inner else said[subset]
            for task in fused:
                within = near[task]["all" if inner else subset]
                found, points = between.evaluate(judge, task, told, within, modalities=subset, model=name)
                evaluation += found
                curves += [] if inner else points
        if whole:
            evaluation += _varied(judge, said, [*fused], [*hidden], name=name)
            weighed += attention(judge, said[primary(study)], evaluation, model=name)
            for task in fused if dropped else ():
                worth += importance(judge, task, said, shown=primary(study), model=name)
        if every:
            for task in fused:
                here = [row for row in evaluation if (row.task, row.modalities, row.subgroup) == (task, "all", "")]
                more += contributions(judge, task, said, here, model=name)
    if drawn:
        masks = segment(model, batch, rows=rows, tasks=drawn)
        for task in drawn:
            found, points = judge.evaluate(task, masks, modalities="all", model=name)
            evaluation += found
            curves += points
    findings = Findings(
        evaluation=tuple(evaluation),
        curves=tuple(curves),
        contributions=tuple(more),
        importance=tuple(worth),
        attention=tuple(weighed),
    )
    beside = name == RECALIBRATED and study.judged is None  # the raw model's results tell the cohort
    return findings if not whole or beside else _with_cohort(judge, findings)


def _varied(
    judge: Judge, said: Mapping[str, Told], tasks: list[str], hidden: list[str], *, name: str
) -> list[EvaluationRow]:
    """Rows of subgroups, and of hidden inputs: from the inputs that do not state the diagnosis."""
    shown = primary(judge.study)
    found: list[EvaluationRow] = []
    for task in tasks:
        found += subgroup_rows(judge, task, said[shown], modalities=shown, model=name)
        for subgroup in hidden:
            rows, _ = judge.evaluate(task, said[subgroup], modalities=shown, model=name)
            found += [row.model_copy(update={"subgroup": subgroup}) for row in rows]
    return found


def _with_cohort(judge: Judge, findings: Findings) -> Findings:
    """With Table 1 and the flow, where the study asks for them."""
    if not judge.study.evaluation.described:
        return findings
    study, cohort, rows = judge.study, judge.cohort, judge.rows()
    table = described(cohort, rows, study=study, site=judge.site)
    told = tells_flow(study, judge.site.name)
    steps = flow(cohort, rows, study=study, evaluation=findings.evaluation) if told else ()
    return findings.model_copy(update={"described": tuple(table), "flow": tuple(steps)})
