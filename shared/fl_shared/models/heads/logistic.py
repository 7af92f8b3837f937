"""Binary and multilabel heads: a logistic regression a label."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fl_shared.models.heads.trunk import TaskHead
from fl_shared.models.registry import HEADS
from fl_shared.study import ModelPlan, TaskPlan


class LogisticHead(TaskHead):
    """fused (B, D) -> logits (B, C)."""

    def __init__(self, task: TaskPlan, *, features: int | None, model: ModelPlan) -> None:
        super().__init__(task, features=features, model=model)
        self._positive = task.weights or (1.0,) * task.outputs

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Mean binary cross-entropy over a row's known labels (B,); 0 where a row has none."""
        target = torch.where(mask, target.to(logits.dtype), 0.0)  # an unknown label may hold anything
        positive = logits.new_tensor(self._positive)
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none", pos_weight=positive)
        known = mask.to(logits.dtype)
        return (each * known).sum(1) / known.sum(1).clamp(min=1)

    def predict(self, logits: Tensor) -> Tensor:
        """Probabilities (B, C)."""
        return logits.sigmoid()


@HEADS.register("binary", kind="binary", source="logistic regression")
@HEADS.register("multilabel", kind="multilabel", source="logistic regression, one a label")
def build(task: TaskPlan, features: int | None, model: ModelPlan) -> LogisticHead:
    """The head of a task."""
    return LogisticHead(task, features=features, model=model)
