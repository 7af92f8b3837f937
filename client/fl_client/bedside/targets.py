"""What a model is asked about a patient: one number a task, label and day, and the scale on which it is explained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fl_shared.models.model import MultimodalModel
from fl_shared.study import Study, TaskPlan

TINY = 1e-12  # a risk nearer to 0 or 1 is told as this near


@dataclass(frozen=True, kw_only=True)
class Target:
    """One number of a task.

    place: of the label among the task's; day: of a risk over time, by which it is told. kind: ``risk`` (explained on
    its log-odds), ``value`` (a regression, in its own unit), ``hazard`` (Cox: log relative hazard, no probability).
    """

    task: str
    label: str
    kind: Literal["risk", "value", "hazard"]
    place: int = 0
    day: float | None = None

    @property
    def told(self) -> str:
        """The label under which a study's results tell it (`TaskPlan.told`)."""
        return f"{self.day:g}d" if self.day is not None and not self.label else self.label

    @property
    def title(self) -> str:
        """In words: ``macce, stroke``, ``survival, event by day 90``: the risk is that of the event, here death."""
        event = "" if self.label else "event "
        day = "" if self.day is None else f"{event}by day {self.day:g}"
        return ", ".join(part.replace("_", " ") for part in (self.task, self.label, day) if part)


def targets_of(study: Study) -> tuple[Target, ...]:
    """Every number that the study's tasks tell of a patient, in the study's order; segmentations are pictures."""
    return tuple(target for task, plan in study.tasks.items() for target in _of(task, plan))


def _of(task: str, plan: TaskPlan) -> list[Target]:
    match plan.type:
        case "segmentation":
            return []
        case "regression":
            return [Target(task=task, label="", kind="value")]
        case "survival" if plan.survival_model == "cox":
            return [Target(task=task, label="", kind="hazard")]
        case "survival" | "competing":
            labels = plan.labels or ("",)
            return [
                Target(task=task, label=label, kind="risk", place=c, day=day)
                for c, label in enumerate(labels)
                for day in plan.told_at
            ]
        case _:
            return [Target(task=task, label=label, kind="risk", place=c) for c, label in enumerate(plan.told)]


def main_target(study: Study) -> Target:
    """What pictures explain: the study's first risk (the first headline label, the last day), else its first number.

    Raises:
        ValueError: the study has segmentations only.
    """
    found = targets_of(study)
    if not found:
        raise ValueError("the study predicts nothing but segmentations")
    first = next((target for target in found if target.kind == "risk"), found[0])
    plan = study.tasks[first.task]
    wanted = plan.headline[0] if plan.headline else first.label
    of_task = [t for t in found if t.task == first.task and t.label == wanted]
    return of_task[-1]


def scores(model: MultimodalModel, study: Study, logits: Mapping[str, Tensor]) -> dict[Target, Tensor]:
    """Each target (B,) on the scale on which contributions add: log-odds of a risk, else the number itself; float64."""
    said = model.predict({task: z.double() for task, z in logits.items()})
    found = {}
    for target in targets_of(study):
        plan, values = study.tasks[target.task], said[target.task]
        if target.kind != "risk":
            found[target] = values[:, 0]
        elif target.day is None:
            found[target] = log_odds(values[:, target.place])
        else:
            curve = values if plan.type == "survival" else values[:, :, target.place]
            found[target] = log_odds(_by_day(curve, plan, target.day))
    return found


def log_odds(risk: Tensor) -> Tensor:
    """log(p / (1 - p)); a risk of 0 or 1 counts as `TINY` away from it."""
    bounded = risk.clamp(TINY, 1 - TINY)
    return bounded.log() - (-bounded).log1p()


def number(score: float, target: Target) -> float:
    """From the scale of `scores` to what is told: a risk, or the value itself."""
    return float(torch.tensor(score, dtype=torch.float64).sigmoid()) if target.kind == "risk" else score


def _by_day(curve: Tensor, plan: TaskPlan, day: float) -> Tensor:
    """Risk (B,) by a day from that (B, bins) by the plan's edges: linear between them, 0 on day 0."""
    ends = (0.0, *plan.edges)
    right = next(k for k, end in enumerate(ends) if k and day <= end)
    share = (day - ends[right - 1]) / (ends[right] - ends[right - 1])
    before = curve[:, right - 2] if right > 1 else torch.zeros_like(curve[:, 0])
    return (1 - share) * before + share * curve[:, right - 1]
