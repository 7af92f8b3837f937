"""Linear heads inside a fusion, for predictions besides that of the task's own head."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fl_shared.models.interface import FusionSpec


class OwnHead(nn.Module):
    """x (B, D) -> logits (B, C), from where the task's own head would start."""

    start: Tensor | None

    def __init__(self, features: int, outputs: int, start: Tensor | None) -> None:
        super().__init__()
        self.linear = nn.Linear(features, outputs)
        self.register_buffer("start", start, persistent=False)  # a constant of the plan: no array of the model

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.linear(x)
        return logits if self.start is None else logits + self.start


class OwnHeads(nn.ModuleDict):
    """Task -> `OwnHead`; called with x (B, D), gives each task's logits."""

    def __init__(self, features: int, spec: FusionSpec) -> None:
        super().__init__({task: OwnHead(features, n, spec.starts.get(task)) for task, n in spec.tasks.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Task -> logits (B, C)."""
        return {task: head(x) for task, head in self.items()}


def told(logits: Tensor, *, training: bool) -> Tensor:
    """A prediction made of others that have losses of their own: in training it sends no gradient back to them; else it
    does, so that a prediction can be traced to the inputs.
    """
    return logits.detach() if training else logits


def mean_present(logits: Iterable[Tensor], present: Iterable[Tensor]) -> Tensor:
    """Mean (B, C) of the logits (B, C) of those that a row has; presence (B,) each, at least one."""
    each, there = torch.stack(list(logits), dim=1), torch.stack(list(present), dim=1)[..., None]
    return torch.where(there, each, 0.0).sum(1) / there.sum(1)
