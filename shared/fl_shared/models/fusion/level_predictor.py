"""The levels of an encoder as tokens that fit one another, and a prediction from each (LeMoF, module 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, nn

from fl_shared.models.interface import Level
from fl_shared.models.tokens import token_mean

TOKENS = 16
GRID = {2: (4, 4), 3: (4, 2, 2), 4: (2, 2, 2, 2)}  # parts along each dimension of a map


@dataclass(frozen=True, kw_only=True)
class LevelOutput:
    """tokens (B, 16, d), mask (B, 16), logits: task -> (B, C); what stands in absent rows does not matter."""

    tokens: Tensor
    mask: Tensor
    logits: Mapping[str, Tensor]


class LevelPredictor(nn.Module):
    """A level's map (B, C_k, *S) -> at most 16 tokens of width d, and each task's logits from their mean.

    Pooling goes before the linear map, not after it: the two commute, and few tokens cost less than a whole map.

    Args:
        channels: C_k.
        width: d.
        tasks: task -> its outputs.
    """

    def __init__(self, *, channels: int, width: int, tasks: Mapping[str, int]) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, width)
        self.norm = nn.LayerNorm(width)
        self.heads = nn.ModuleDict({task: nn.Linear(width, outputs) for task, outputs in tasks.items()})

    def forward(self, level: Level, there: Tensor) -> LevelOutput:
        """One level of the rows that are there (B,)."""
        pooled, mask = pool(level, there)
        tokens = self.norm(self.linear(pooled))
        mean = token_mean(tokens, mask)
        return LevelOutput(tokens=tokens, mask=mask, logits={task: head(mean) for task, head in self.heads.items()})


def pool(level: Level, there: Tensor) -> tuple[Tensor, Tensor]:
    """Means of a level's map over at most 16 parts of it.

    A sequence is divided by each row's own valid length, so that a row does not depend on how far the batch is
    padded; an image or a cine by a fixed grid. Parts without a valid position are masked.

    Args:
        level: map (B, C, *S).
        there: (B,), rows whose map counts.

    Returns:
        (B, 16, C) and its mask (B, 16).
    """
    shape = level.map.shape[2:] or (1,)
    x = level.map.reshape(*level.map.shape[:2], prod(shape))
    valid = there[:, None].expand(-1, x.shape[2])
    if level.mask is not None:
        valid = valid & level.mask.reshape(len(valid), -1)
    parts = _along(valid) if len(shape) == 1 else _grid(shape, x.device)
    member = (parts[..., None] == torch.arange(TOKENS, device=x.device)).to(x.dtype)
    count = (valid.to(x.dtype)[:, None] @ member).transpose(1, 2)
    total = (torch.where(valid[:, None], x, 0.0) @ member).transpose(1, 2)
    return total / count.clamp(min=1), count[:, :, 0] > 0


def _along(valid: Tensor) -> Tensor:
    """Part (B, S) of each valid position of a sequence (B, S): equal shares of the row's valid ones."""
    rank = valid.cumsum(1) - 1
    return rank * TOKENS // valid.sum(1, keepdim=True).clamp(min=1)


def _grid(shape: Sequence[int], device: torch.device) -> Tensor:
    """Part (S,) of each position of a map of two to four dimensions, row-major."""
    part = torch.zeros((), dtype=torch.int64, device=device)
    for size, cuts in zip(shape, GRID[len(shape)], strict=True):
        part = part[..., None] * cuts + torch.arange(size, device=device) * cuts // size
    return part.flatten()
