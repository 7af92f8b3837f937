"""From the fused vector to a task's logits: one linear map, or a small network."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fl_shared.models.interface import FusionOutput
from fl_shared.study import ModelPlan, TaskPlan

DROPOUT = 0.2


class TaskHead(nn.Module):
    """fused (B, D) -> logits (B, `TaskPlan.outputs`); losses and predictions are the subclasses'.

    ``mlp`` is D -> D/2 -> D/4 -> outputs with LayerNorm, ReLU and dropout (widths scaled to the input: cross-modal
    alignment for time-to-event; LayerNorm is ours).

    Args:
        task: the outcome.
        features: D; None when the fusion gives the task's logits.
        model: ``head`` names the form.
        start: constants of the plan, one an output, added to what the map gives: where an untrained head stands. None
            where the fusion gives the logits.
        intercept: whether the outputs have a bias.
    """

    start: Tensor | None

    def __init__(
        self,
        task: TaskPlan,
        *,
        features: int | None,
        model: ModelPlan,
        start: Sequence[float] | None = None,
        intercept: bool = True,
    ) -> None:
        super().__init__()
        self.linear = nn.Identity() if features is None else _trunk(features, task.outputs, model.head, intercept)
        added = None if features is None or start is None else torch.tensor(start)
        self.register_buffer("start", added, persistent=False)  # no array of the model: nobody trains or sends it

    def forward(self, fused: FusionOutput) -> Tensor:
        """Logits; with one vector an output, (B, C, D), output c is read off vector c by its own row of the map."""
        logits: Tensor = self.linear(fused.fused)
        if logits.dim() == 3:
            logits = logits.diagonal(dim1=1, dim2=2)
        return logits if self.start is None else logits + self.start


def _trunk(features: int, outputs: int, form: str, bias: bool) -> nn.Module:
    if form == "linear":
        return nn.Linear(features, outputs, bias=bias)
    half, quarter = max(features // 2, 1), max(features // 4, 1)
    layers: dict[str, nn.Module] = {
        "first": nn.Linear(features, half),
        "norm1": nn.LayerNorm(half),
        "relu1": nn.ReLU(),
        "dropout1": nn.Dropout(DROPOUT),
        "second": nn.Linear(half, quarter),
        "norm2": nn.LayerNorm(quarter),
        "relu2": nn.ReLU(),
        "dropout2": nn.Dropout(DROPOUT),
        "out": nn.Linear(quarter, outputs, bias=bias),
    }
    return nn.Sequential(OrderedDict(layers))
