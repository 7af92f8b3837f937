"""Logistic stacking (Wolpert 1992): predictions of a task, as logits, combined linearly, output by output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from fl_shared.models.fusion.own_heads import told

PAIR = 2  # predictions of a modality: its meta-learner's, its best level's


class LogisticStack(nn.Module):
    """x (..., C, F), F predictions of each of C outputs -> (..., C); before training it is their mean."""

    def __init__(self, *, outputs: int, features: int) -> None:
        super().__init__()
        self.initial = {"weight": 1 / features}
        self.weight = nn.Parameter(torch.full((outputs, features), 1 / features))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        return (x * self.weight).sum(-1) + self.bias


class Offset(nn.Linear):
    """What the logits gain where modalities are absent: flags (B, M) -> (B, C); nothing before training."""

    initial: ClassVar[Mapping[str, float]] = {"weight": 0.0}

    def __init__(self, *, flags: int, outputs: int) -> None:
        super().__init__(flags, outputs, bias=False)


class FinalStack(nn.Module):
    """The last two stacks of a task: omega1 over the modalities' predictions, the logits over omega1 and omega2.

    An absent modality's predictions enter as the mean of those that the row has, with a learned offset: as 0, that is a
    risk of one half, they would raise the risk of every row that lacks something while the stack is young. Without
    ``joins`` omega1 is the prediction.
    """

    def __init__(self, *, modalities: int, outputs: int, joins: bool = True) -> None:
        super().__init__()
        self.first = LogisticStack(outputs=outputs, features=PAIR * modalities)
        self.absent = Offset(flags=modalities, outputs=outputs)
        self.last = LogisticStack(outputs=outputs, features=2) if joins else None

    def forward(
        self, predictions: Sequence[tuple[Tensor, Tensor]], present: Sequence[Tensor], omega2: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Omega1 and the logits, (B, C) each.

        Omega1 is fitted to the outcome itself, as in the paper: no gradient comes back to it from the logits.

        Args:
            predictions: of each modality the meta-learner's and the best level's, (B, C) each.
            present: of each modality (B,), at least one in a row.
            omega2: (B, C), where it is joined.
        """
        each = torch.stack([z for pair in predictions for z in pair], dim=-1)
        there = torch.stack([rows for rows in present for _ in range(PAIR)], dim=1)[:, None]
        mean = torch.where(there, each, 0.0).sum(-1, keepdim=True) / there.sum(-1, keepdim=True)
        flags = (~torch.stack(list(present), dim=1)).to(each.dtype)
        omega1 = self.first(torch.where(there, each, mean)) + self.absent(flags)
        if self.last is None or omega2 is None:
            return omega1, omega1
        return omega1, self.last(torch.stack([told(omega1, training=self.training), omega2], dim=-1))
