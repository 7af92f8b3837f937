"""Competing risks in discrete time: in each bin a softmax over no event and the causes.

Logits (B, bins (1 + C)) hold, bin by bin, no event and then causes 1 to C; with one cause this is the hazard head
(Tutz and Schmid 2016, chapter 8). The likelihood is the hazard head's: -log p(no event) for each bin survived, then
-log p(cause) in the bin of the event; a censored patient counts as having survived the bin.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fl_shared.models.heads.follow_up import bin_of, follow_up, start_of
from fl_shared.models.heads.trunk import TaskHead
from fl_shared.models.registry import HEADS
from fl_shared.study import ModelPlan, TaskPlan


class CompetingHead(TaskHead):
    """fused (B, D) -> logits (B, bins (1 + C))."""

    def __init__(self, task: TaskPlan, *, features: int | None, model: ModelPlan) -> None:
        causes = len(task.labels)
        # no event stands against all causes together as in the hazard head
        a_bin = (math.log(causes) - start_of(task.bins), *(0.0,) * causes)
        super().__init__(task, features=features, model=model, start=a_bin * task.bins)
        self._edges, self._horizon, self._causes = task.edges, task.horizon, causes

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Negative log likelihood (B,); 0 where time or cause is unknown.

        Args:
            logits: (B, bins (1 + C)).
            target: (B, 2), days and cause (0: censored, else 1 to C).
            mask: (B, 2).
        """
        seen = follow_up(target, mask, horizon=self._horizon)
        last = bin_of(seen.time, self._edges)[:, None]
        k = torch.arange(len(self._edges), device=logits.device)
        happens = torch.where(k == last, seen.cause[:, None], 0)
        each = -self._log_hazards(logits).gather(2, happens[:, :, None])[:, :, 0]
        return torch.where((k <= last) & seen.known[:, None], each, 0.0).sum(1)

    def predict(self, logits: Tensor) -> Tensor:
        """Cumulative incidence of each cause by each edge (B, bins, C); with survival they sum to 1."""
        hazards = self._log_hazards(logits)
        survives = hazards[:, :, 0]
        before = survives.cumsum(1) - survives
        return (before[:, :, None] + hazards[:, :, 1:]).exp().cumsum(1)

    def _log_hazards(self, logits: Tensor) -> Tensor:
        """(B, bins, 1 + C)."""
        return logits.view(len(logits), len(self._edges), 1 + self._causes).log_softmax(2)


@HEADS.register("competing", kind="competing", source="Tutz and Schmid 2016, chapter 8")
def build(task: TaskPlan, features: int | None, model: ModelPlan) -> CompetingHead:
    """The head of a task."""
    return CompetingHead(task, features=features, model=model)
