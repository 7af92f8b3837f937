"""Regression head: one number in the unit of the target.

``mse`` and ``huber`` (which turns linear at 1) judge z against (y - offset) / scale, so y is predicted as
offset + scale z. ``msle`` judges log(1 + y) in y's own unit. Its prediction is scale exp(z), never negative, whose
log(1 + .) is softplus(z + log scale): finite wherever z is (exponential link: TPC, Rocheteau et al. 2021). ``offset``
has no part in it: z = 0 stands for ``scale`` itself.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from fl_shared.models.heads.trunk import TaskHead
from fl_shared.models.registry import HEADS
from fl_shared.study import ModelPlan, TaskPlan


class RegressionHead(TaskHead):
    """fused (B, D) -> z (B, 1)."""

    def __init__(self, task: TaskPlan, *, features: int | None, model: ModelPlan) -> None:
        super().__init__(task, features=features, model=model)
        self._form, self._offset, self._scale = task.loss, task.offset, task.scale

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Squared, Huber or squared logarithmic error (B,); 0 where the target is unknown.

        Args:
            logits: (B, 1).
            target: (B, 1) in its own unit; under ``msle`` a negative one counts as 0.
            mask: (B, 1).
        """
        known = mask[:, 0]
        y = torch.where(mask, target.to(logits.dtype), self._offset)  # an unknown target may hold anything
        if self._form == "msle":
            found, wanted = self._log1p(logits), y.clamp(min=0).log1p()
        else:
            found, wanted = logits, (y - self._offset) / self._scale
        measure = F.huber_loss if self._form == "huber" else F.mse_loss
        return torch.where(known, measure(found, wanted, reduction="none")[:, 0], 0.0)

    def predict(self, logits: Tensor) -> Tensor:
        """The value (B, 1) in the target's unit."""
        if self._form == "msle":
            return self._scale * logits.exp()
        return self._offset + self._scale * logits

    def _log1p(self, logits: Tensor) -> Tensor:
        return torch.logaddexp(logits + math.log(self._scale), torch.zeros_like(logits))


@HEADS.register("regression", kind="regression", source="least squares; Huber 1964; MSLE: TPC (Rocheteau et al. 2021)")
def build(task: TaskPlan, features: int | None, model: ModelPlan) -> RegressionHead:
    """The head of a task."""
    return RegressionHead(task, features=features, model=model)
