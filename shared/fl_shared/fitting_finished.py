"""What does not fit together in a study that judges a finished model, and in thresholds for promoting one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fl_shared.errors import Fault, misfit, nearest
from fl_shared.metrics.table import METRICS, MetricName, metrics_of

if TYPE_CHECKING:
    from fl_shared.study import Study

CALIBRATION: tuple[MetricName, ...] = ("calibration_slope", "expected_observed")


def unfit_judged(study: Study) -> Iterator[Fault]:
    """Every fault of a study that judges a finished model; ``file`` is left empty."""
    plan = study.judged
    if plan is None:
        return
    for name in study.train_sites:
        problem = "a finished model is judged: nobody trains"
        yield misfit(f"sites.{name}.role", problem, "Write role = 'external'", value="train")
    trained = {*plan.trained_by, *(plan.against.trained_by if plan.against else ())}
    for name in sorted(trained & study.sites.keys()):
        problem = "it trained this model; what its held-out patients tell stands in the results of that run"
        yield misfit(f"sites.{name}", problem, "Leave it out")
    if study.rounds.quorum > len(study.sites):
        problem = f"exceeds the {len(study.sites)} sites"
        yield misfit("rounds.quorum", problem, "Lower it", value=str(study.rounds.quorum))
    for key, asked in {
        "statistics": study.statistics is not None,
        "evaluation.recalibrate": study.evaluation.recalibrate,
        "evaluation.every": study.evaluation.every > 0,
        "promotion": study.promotion is not None,
    }.items():
        if asked:
            yield misfit(key, "it belongs to the study that trains a model", "Remove it")
    if plan.against is not None:
        if study.evaluation.epsilon is not None:
            yield misfit("judged.against", "differences have no noised form (evaluation.epsilon)", "Remove one")
        if (plan.against.arrays, plan.against.study) == (plan.arrays, plan.study):
            yield misfit("judged.against", "it is the same model", "Name another")
        kinds = [{name: m.kind for name, m in of.modalities.items()} for of in (study, plan.against)]
        for name in sorted(kinds[0].keys() & kinds[1].keys()):
            if kinds[0][name] != kinds[1][name]:
                key, problem = f"judged.against.modalities.{name}", f"the study's is of kind '{kinds[0][name]}'"
                yield misfit(key, problem, "Compare models that mean the same by a name", value=kinds[1][name])


def unfit_promotion(study: Study) -> Iterator[Fault]:
    """Every fault of a study's thresholds; ``file`` is left empty."""
    plan = study.promotion
    if plan is None:
        return
    if not study.external_sites:
        yield misfit("promotion", "there is no external site to judge the model", "Give one the role 'external'")
    if plan.model == "recalibrated" and not study.evaluation.recalibrate:
        yield misfit(
            "promotion.model", "the study does not recalibrate", "Set evaluation.recalibrate", value=plan.model
        )
    for number, limit in enumerate(plan.discrimination):
        key = f"promotion.discrimination.{number}"
        yield from _place(study, key, limit.task, limit.label, (limit.metric,))
        yield from _summary(study, key, limit.at)
    for number, calibrated in enumerate(plan.calibration):
        key = f"promotion.calibration.{number}"
        yield from _place(study, key, calibrated.task, calibrated.label, CALIBRATION)
        yield from _summary(study, key, calibrated.at)
    for number, gap in enumerate(plan.subgroups):
        key = f"promotion.subgroups.{number}"
        yield from _place(study, key, gap.task, gap.label, (gap.metric,))
        if gap.by not in study.evaluation.subgroups:
            mend = f"Add it to evaluation.subgroups (there: {', '.join(study.evaluation.subgroups) or 'none'})"
            yield misfit(f"{key}.by", "no subgroup of the evaluation", mend, value=gap.by)


def _place(study: Study, key: str, task: str, label: str | None, metrics: tuple[MetricName, ...]) -> Iterator[Fault]:
    plan = study.tasks.get(task)
    if plan is None:
        yield misfit(f"{key}.task", "no such task", nearest(task, study.tasks), value=task)
        return
    if label is not None and label not in (known := (*plan.told, *(("macro",) if len(plan.told) > 1 else ()))):
        yield misfit(f"{key}.label", "no label under which results are told", nearest(label, known), value=label)
    if wrong := [metric for metric in metrics if plan.type not in METRICS[metric].types]:
        mend = f"A {plan.type} task has: {', '.join(metrics_of(plan.type))}"
        yield misfit(f"{key}.metric", f"not of a {plan.type} task", mend, value=", ".join(wrong))


def _summary(study: Study, key: str, at: str) -> Iterator[Fault]:
    if at == "summary" and len(study.external_sites) < 2:
        yield misfit(f"{key}.at", "one external site has no summary", "Use 'every', or have two", value=at)
