"""Binary and multilabel heads: a logistic regression a label."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.interface import FusionOutput
from fl_shared.models.registry import HEADS
from fl_shared.study import TaskPlan


class LogisticHead(nn.Module):
    """fused (B, D) -> logits (B, C)."""

    def __init__(self, *, features: int, labels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, labels)

    def forward(self, fused: FusionOutput) -> Tensor:
        """Logits (B, C)."""
        logits: Tensor = self.linear(fused.fused)
        return logits

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Mean binary cross-entropy over a row's known labels (B,); 0 where a row has none."""
        target = torch.where(mask, target.to(logits.dtype), 0.0)  # an unknown label may hold anything
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        known = mask.to(logits.dtype)
        return (each * known).sum(1) / known.sum(1).clamp(min=1)

    def predict(self, logits: Tensor) -> Tensor:
        """Probabilities (B, C)."""
        return logits.sigmoid()


@HEADS.register("binary", kind="binary", source="logistic regression")
@HEADS.register("multilabel", kind="multilabel", source="logistic regression, one a label")
def build(task: TaskPlan, features: int) -> LogisticHead:
    """The head of a task."""
    return LogisticHead(features=features, labels=len(task.names))
