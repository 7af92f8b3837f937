"""What every decoder of a segmentation shares: the order of its logits, its loss and its predictions."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from fl_shared.models.interface import Level
from fl_shared.study import ModalityPlan, TaskPlan

DICE, ENTROPY = 0.6, 0.4  # shares of the loss (DAE-Former's training: Azad et al. 2023)
SMOOTH = 1.0  # pixels


class Segmentation(nn.Module, ABC):
    """Levels of an encoder -> logits (B, frames, slices, classes, size, size)."""

    def __init__(self, task: TaskPlan, plan: ModalityPlan) -> None:
        super().__init__()
        self._weights = task.weights or (1.0,) * task.outputs
        self._slices, self._size, self._classes = plan.slices, plan.size, task.outputs

    @abstractmethod
    def forward(self, levels: tuple[Level, ...]) -> Tensor:
        """Logits, from the three maps (low to high)."""

    def _cut(self, logits: Tensor) -> Tensor:
        """Without what lies beyond the image, below and to the right."""
        return logits[..., : self._size, : self._size]

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """0.6 soft Dice + 0.4 cross-entropy of each labelled image, averaged over a row's (B,); 0 where it has none.

        Dice loss of a class: 1 - (2 |p y| + 1) / (|p| + |y| + 1), sums over the pixels of one image; so a class that
        is neither drawn nor predicted costs 0, and one that is only predicted costs the more, the more pixels. Both
        parts are means weighted by `TaskPlan.weights`: over the classes, background included, and over the pixels.

        Args:
            logits: (B, frames, slices, classes, size, size).
            target: (B, frames, slices, size, size), numbers of classes.
            mask: (B, frames, slices), where someone drew; elsewhere logits and target may hold anything.
        """
        there = mask[..., None, None]
        logits = torch.where(there[..., None], logits, 0).to(torch.promote_types(logits.dtype, torch.float32))
        drawn = torch.where(there, target, 0).long()
        weights = logits.new_tensor(self._weights)
        logs = logits.log_softmax(3)
        each = DICE * _dice_loss(logs.exp(), drawn, weights) + ENTROPY * _cross_entropy(logs, drawn, weights)
        known = mask.to(each.dtype)
        return (each * known).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)

    def predict(self, logits: Tensor) -> Tensor:
        """The likeliest class (B, frames, slices, size, size) uint8."""
        return logits.argmax(3).to(torch.uint8)


def _dice_loss(shares: Tensor, drawn: Tensor, weights: Tensor) -> Tensor:
    """shares (B, T, S, K, H, W), drawn (B, T, S, H, W), weights (K,) -> (B, T, S)."""
    one_hot = torch.zeros_like(shares).scatter_(3, drawn.unsqueeze(3), 1.0)
    common, both = (shares * one_hot).sum((-1, -2)), (shares + one_hot).sum((-1, -2))
    each = 1 - (2 * common + SMOOTH) / (both + SMOOTH)
    return (each * weights).sum(-1) / weights.sum()


def _cross_entropy(logs: Tensor, drawn: Tensor, weights: Tensor) -> Tensor:
    """logs (B, T, S, K, H, W), drawn (B, T, S, H, W), weights (K,) -> (B, T, S); 0 where all pixels weigh 0."""
    each, weight = -logs.gather(3, drawn.unsqueeze(3)).squeeze(3), weights[drawn]
    total = weight.sum((-1, -2))
    return (each * weight).sum((-1, -2)) / total.where(total > 0, 1.0)
