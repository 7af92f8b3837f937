"""Multiclass head: a softmax over the task's labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fl_shared.models.heads.trunk import TaskHead
from fl_shared.models.registry import HEADS
from fl_shared.study import ModelPlan, TaskPlan


class MulticlassHead(TaskHead):
    """fused (B, D) -> logits (B, C), one a label."""

    def __init__(self, task: TaskPlan, *, features: int | None, model: ModelPlan) -> None:
        super().__init__(task, features=features, model=model)
        self._weights = task.weights or (1.0,) * task.outputs

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Cross-entropy times the fixed weight of the row's class (B,), never divided by the weights of a batch.

        Args:
            logits: (B, C).
            target: (B, 1), the number of the label from 0.
            mask: (B, 1), false where it is unknown: such a row's loss is 0.
        """
        known = mask[:, 0]
        label = torch.where(known, target[:, 0], 0.0).long()
        each = F.cross_entropy(logits, label, weight=logits.new_tensor(self._weights), reduction="none")
        return torch.where(known, each, 0.0)

    def predict(self, logits: Tensor) -> Tensor:
        """Probabilities (B, C); the rows sum to 1."""
        return logits.softmax(1)


@HEADS.register("multiclass", kind="multiclass", source="multinomial logistic regression")
def build(task: TaskPlan, features: int | None, model: ModelPlan) -> MulticlassHead:
    """The head of a task."""
    return MulticlassHead(task, features=features, model=model)
