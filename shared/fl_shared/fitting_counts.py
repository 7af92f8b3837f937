"""What does not fit together in a study's counts: statistics, recalibration, noised evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fl_shared.errors import Fault, misfit, nearest
from fl_shared.task import CLASSED, RISKY

if TYPE_CHECKING:
    from fl_shared.study import Study

COUNTED = ("table", "events")


def unfit_counts(study: Study) -> Iterator[Fault]:
    """Every fault, as far as the plan alone tells; ``file`` is left empty."""
    yield from _statistics(study)
    risky = any(task.type in RISKY for task in study.tasks.values())
    asked = {
        "evaluation.recalibrate": study.evaluation.recalibrate,
        "evaluation.epsilon": study.evaluation.epsilon is not None,
    }
    for key, wanted in asked.items():
        if wanted and not risky:
            yield misfit(key, "it is of binary and multilabel tasks; the study has none", "Remove it")
    counts = {"statistics": study.statistics is not None, "evaluation.recalibrate": study.evaluation.recalibrate}
    for key, wanted in counts.items():
        if wanted and study.privacy.mode == "site":
            problem = "a whole site may change a count by all its patients, so no noise protects it and leaves anything"
            yield misfit(key, problem, "Remove it, or use mode 'patient'")


def _statistics(study: Study) -> Iterator[Fault]:
    plan = study.statistics
    if plan is None:
        return
    if not plan.modalities and not plan.tasks:
        yield misfit("statistics", "it names nothing to count", "Name 'modalities' or 'tasks'")
    for key, names, known in (
        ("modalities", plan.modalities, {n: m.kind for n, m in study.modalities.items() if m.kind in COUNTED}),
        ("tasks", plan.tasks, {n: t.type for n, t in study.tasks.items() if t.type in CLASSED}),
    ):
        what = "table or events" if key == "modalities" else "binary, multilabel or multiclass task"
        for number, name in enumerate(names):
            if name not in known:
                yield misfit(f"statistics.{key}", f"no {what} of this name", nearest(name, known), value=name)
            elif name in names[:number]:
                yield misfit(f"statistics.{key}", "named twice", "Name it once", value=name)
