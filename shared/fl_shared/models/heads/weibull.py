"""Weibull survival head: each patient's own scale and shape.

With u = time / horizon, scale L and shape p, the cumulative hazard is H = (u / L)^p, log S = -H and
log f = log p + p (log u - log L) - log u - H. The density is that of u: other units shift the loss
by a constant. Follow-up ends at the horizon.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fl_shared.models.heads.follow_up import follow_up
from fl_shared.models.heads.trunk import TaskHead
from fl_shared.models.registry import HEADS
from fl_shared.study import ModelPlan, TaskPlan

SHAPE = 2.0  # bound of |log p|
EARLIEST = 1e-4  # of the horizon: an event on day 0 has no finite density
STEEPEST = 10.0  # log H from which H goes on linearly: survival is e^-22026 there, and exp would overflow


class WeibullHead(TaskHead):
    """fused (B, D) -> log scale in horizons and log shape (B, 2)."""

    def __init__(self, task: TaskPlan, *, features: int | None, model: ModelPlan) -> None:
        super().__init__(task, features=features, model=model)
        self._horizon, self._edges = task.horizon, task.edges

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Censored negative log likelihood (B,), which may be negative; 0 where time or event is unknown.

        Args:
            logits: (B, 2).
            target: (B, 2), days and event (0 or 1).
            mask: (B, 2).
        """
        seen = follow_up(target, mask, horizon=self._horizon)
        log_u = (seen.time.to(logits.dtype) / self._horizon).clamp(min=EARLIEST).log()
        log_shape, log_hazard = _log_hazard(logits, log_u[:, None])
        event = torch.where(seen.cause > 0, log_shape[:, 0] + log_hazard[:, 0] - log_u, 0.0)
        return torch.where(seen.known, _exp(log_hazard[:, 0]) - event, 0.0)

    def predict(self, logits: Tensor) -> Tensor:
        """Risk of the event by each edge (B, bins)."""
        log_u = (logits.new_tensor(self._edges) / self._horizon).log()
        return -(-_exp(_log_hazard(logits, log_u)[1])).expm1()


def _log_hazard(logits: Tensor, log_u: Tensor) -> tuple[Tensor, Tensor]:
    """Log shape (B, 1) and log H (B, K) at log times that fit (B, K)."""
    log_scale, log_shape = logits[:, :1], logits[:, 1:].clamp(-SHAPE, SHAPE)
    return log_shape, log_shape.exp() * (log_u - log_scale)


def _exp(x: Tensor) -> Tensor:
    """exp, above `STEEPEST` its tangent: finite, and with a gradient that still points back."""
    return torch.where(
        x < STEEPEST, x.clamp(max=STEEPEST).exp(), math.exp(STEEPEST) * (1 + (x - STEEPEST).clamp(min=0))
    )


@HEADS.register("survival_weibull", kind="survival_weibull", source="censored Weibull likelihood")
def build(task: TaskPlan, features: int | None, model: ModelPlan) -> WeibullHead:
    """The head of a task."""
    return WeibullHead(task, features=features, model=model)
