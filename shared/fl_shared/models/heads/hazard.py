"""Survival head in discrete time: a logistic regression of dying within each bin, given that one lived to see it.

NLL of a patient whose time falls into bin b, logits z, h = sigmoid(z): the sum over k < b of -log(1 - h_k), then
-log h_b for an event, -log(1 - h_b) for a censored patient, who so counts as having survived the bin
(Gensheimer and Narasimhan 2019). Who is followed beyond the horizon survives every bin.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fl_shared.models.heads.follow_up import bin_of, follow_up, start_of
from fl_shared.models.heads.trunk import TaskHead
from fl_shared.models.registry import HEADS
from fl_shared.study import ModelPlan, TaskPlan


class HazardHead(TaskHead):
    """fused (B, D) -> log odds of the hazards (B, bins)."""

    def __init__(self, task: TaskPlan, *, features: int | None, model: ModelPlan) -> None:
        super().__init__(task, features=features, model=model, start=(start_of(task.bins),) * task.bins)
        self._edges, self._horizon = task.edges, task.horizon

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Negative log likelihood (B,); 0 where time or event is unknown.

        Args:
            logits: (B, bins).
            target: (B, 2), days and event (0 or 1).
            mask: (B, 2).
        """
        seen = follow_up(target, mask, horizon=self._horizon)
        last = bin_of(seen.time, self._edges)[:, None]
        k = torch.arange(len(self._edges), device=logits.device)
        dies = (k == last) & (seen.cause > 0)[:, None]
        each = -F.logsigmoid(torch.where(dies, logits, -logits))
        return torch.where((k <= last) & seen.known[:, None], each, 0.0).sum(1)

    def predict(self, logits: Tensor) -> Tensor:
        """Risk of the event by each edge (B, bins): 1 - product of (1 - h)."""
        return -F.logsigmoid(-logits).cumsum(1).expm1()


@HEADS.register("survival_hazard", kind="survival_hazard", source="Gensheimer and Narasimhan 2019")
def build(task: TaskPlan, features: int | None, model: ModelPlan) -> HazardHead:
    """The head of a task."""
    return HazardHead(task, features=features, model=model)
