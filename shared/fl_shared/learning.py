"""Learning curves: what training sites tell of the model after a round, from their held-out patients.

A light form of the evaluation: the headline metric of each task and label, with its interval, from the headline inputs.
External sites are never asked: what their patients tell comes once, after training, so that it can steer nothing.
Site and coordinator read the same rules.
"""

from __future__ import annotations

from typing import Final

from fl_shared.counts import primary
from fl_shared.metrics.table import metrics_of
from fl_shared.results import EvaluationRow, Findings
from fl_shared.study import Study, TaskPlan

LEARNED: Final = "learning"  # a kind of request
MODEL: Final = "federated"


def is_due(study: Study, round: int) -> bool:
    """Whether a committed round is judged: every so many rounds and after the last, where it trains a task."""
    every, last = study.evaluation.every, study.training.rounds
    return every > 0 and 1 <= round <= last and not (round % every and round < last) and bool(learned(study, round))


def due(study: Study) -> int:
    """Rounds of the study that are judged."""
    return sum(is_due(study, number) for number in range(1, study.training.rounds + 1))


def learned(study: Study, round: int) -> dict[str, TaskPlan]:
    """The tasks whose predictions a round trains.

    Of a phase that aligns modalities, or trains each with heads of its own, the predictions of the whole model say
    nothing yet; nor do those of a segmentation whose decoder the phase leaves as it is.
    """
    phase = study.phase(round)
    drawn = {
        name for name, plan in study.tasks.items() if plan.modality and study.trains_in(f"heads.{name}.weight", phase)
    }
    whole = {name for name, plan in study.tasks.items() if plan.modality is None}
    tasks = {"tasks": whole | drawn, "segmentation": drawn}.get(phase.objective, set())
    return {name: plan for name, plan in study.tasks.items() if name in tasks}


def is_light(found: Findings, study: Study, *, round: int) -> bool:
    """Whether these are rows of the light form of such a round, and nothing else."""
    others = set(Findings.model_fields) - {"evaluation"}
    tasks = learned(study, round) if is_due(study, round) else {}
    return not any(getattr(found, part) for part in others) and all(
        row.task in tasks and is_point(row, tasks[row.task], study) for row in found.evaluation
    )


def is_point(row: EvaluationRow, plan: TaskPlan, study: Study) -> bool:
    """Whether a row of a task tells its headline metric of the model that all train, from the inputs shown."""
    told = row.modalities, row.model, row.subgroup, row.metric
    return row.role == "train" and told == (shown(plan, study), MODEL, "", metrics_of(plan.type)[0])


def shown(plan: TaskPlan, study: Study) -> str:
    """The inputs from which a task is judged: the headline's; a segmentation sees its own, told as ``all``."""
    return primary(study) if plan.modality is None else "all"
