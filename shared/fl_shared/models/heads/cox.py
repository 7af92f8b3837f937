"""Cox survival head: a log relative hazard, trained by the partial likelihood of the batch.

Each event is compared with the patients of its batch who were still at risk, so a row's loss depends on other rows:
no per-patient gradient exists and privacy refuses it. Ties as Efron (1977).
"""

from __future__ import annotations

import torch
from torch import Tensor

from fl_shared.models.heads.follow_up import FollowUp, follow_up
from fl_shared.models.heads.trunk import TaskHead
from fl_shared.models.registry import HEADS
from fl_shared.study import ModelPlan, TaskPlan


class CoxHead(TaskHead):
    """fused (B, D) -> log relative hazard (B, 1)."""

    def __init__(self, task: TaskPlan, *, features: int | None, model: ModelPlan) -> None:
        # the likelihood ignores what all patients share: no gradient could reach a bias
        super().__init__(task, features=features, model=model, intercept=False)
        self._horizon = task.horizon

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Terms (B,) of the negative log partial likelihood: an event's own, 0 for all others (but with a gradient).

        Their sum is the loss, a tied event having the mean of its tie's terms. A row that is not known is at nobody's
        risk. Follow-up ends at the horizon.

        Args:
            logits: (B, 1).
            target: (B, 2), days and event (0 or 1).
            mask: (B, 2).
        """
        seen = follow_up(target, mask, horizon=self._horizon)
        event = seen.known & (seen.cause > 0)
        return torch.where(event, _log_risk(logits[:, 0], seen, event) - logits[:, 0], 0.0)

    def predict(self, logits: Tensor) -> Tensor:
        """Log relative hazard (B, 1)."""
        return logits


def _log_risk(score: Tensor, seen: FollowUp, event: Tensor) -> Tensor:
    """Mean over an event's tie of log(R - l / d D), l = 0 to d - 1: R the summed hazards of those at risk at its time,
    D of the d events at that time (B,). Rows without an event hold some finite number.
    """
    own = torch.eye(len(score), dtype=torch.bool, device=score.device)  # no row is empty: no NaN in its gradient
    at_risk = own | (seen.known & (seen.time >= seen.time[:, None]))
    tied = own | (event & event[:, None] & (seen.time == seen.time[:, None]))
    log_r, log_d = (score.masked_fill(~among, -torch.inf).logsumexp(1) for among in (at_risk, tied))
    d = tied.sum(1)
    share = tied.tril(-1).sum(1) / d.to(score.dtype)
    # D <= R and share <= 1 - 1 / d, so the logarithm's argument stays above 1 / d
    log = log_r + torch.log1p(-share * (log_d - log_r).exp())
    return (tied.to(score.dtype) @ log) / d


@HEADS.register("survival_cox", kind="survival_cox", source="Cox 1972, 1975; ties: Efron 1977", dp=False)
def build(task: TaskPlan, features: int | None, model: ModelPlan) -> CoxHead:
    """The head of a task."""
    return CoxHead(task, features=features, model=model)
