"""What reads the short segments of a dense series: attention between channels, and a network a segment (MedM2T)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.attention import attend
from fl_shared.models.encoders.blocks import SeriesBlock, norm

KERNEL = 3
ATTENTION_WIDTH, ATTENTION_HEADS = 8, 4


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Segments of one length: features a step, channels of the two blocks, width of the vector."""

    features: int
    channels: tuple[int, int]
    width: int


class ChannelAttention(nn.Module):
    """values, fresh, seen (B, F, L) -> (B, features, L): at every step, the channels seen so far ask one another.

    A channel is its token plus what it finds, 0 before its first value. A key and a value of zeros stand beside the
    channels, so that one alone still has a choice. Convolutions of one step stand for linear maps: with L F places, the
    ghost norm of a linear map takes (L F)^2 numbers a patient.
    """

    def __init__(self, *, channels: int, features: int) -> None:
        super().__init__()
        width = ATTENTION_WIDTH
        # Grouped: each channel has its own map of its value, of whether it was measured at this step, and of 1.
        self.tokens = nn.Conv1d(3 * channels, channels * width, 1, groups=channels, bias=False)
        self.query = nn.Conv1d(width, width, 1)
        self.key = nn.Conv1d(width, width, 1, bias=False)
        self.value = nn.Conv1d(width, width, 1)
        self.out = nn.Conv1d(channels * width, features, 1)

    def forward(self, values: Tensor, fresh: Tensor, seen: Tensor) -> Tensor:
        """Attention folds the steps into the batch: it has no parameters."""
        rows, channels, steps = values.shape
        parts = torch.stack([values, fresh.to(values.dtype), seen.to(values.dtype)], dim=2).flatten(1, 2)
        tokens = self.tokens(parts).unflatten(1, (channels, -1)).permute(0, 2, 3, 1)  # (B, d, L, F)
        query, key, value = (
            f(tokens.flatten(2)).transpose(1, 2).reshape(rows * steps, channels, -1)
            for f in (self.query, self.key, self.value)
        )
        key, value = (F.pad(x, (0, 0, 1, 0)) for x in (key, value))
        there = seen.transpose(1, 2)
        mask = F.pad(there.reshape(rows * steps, channels), (1, 0), value=True)
        found = attend(query, key, value, mask, heads=ATTENTION_HEADS).view(rows, steps, channels, -1)
        found = (found + tokens.permute(0, 2, 3, 1)) * there[..., None].to(found.dtype)
        mixed: Tensor = self.out(found.flatten(2).transpose(1, 2))
        return mixed


class SegmentNetwork(nn.Module):
    """x (B, features, N, w) -> a vector a segment (B, N, width)."""

    def __init__(self, scale: Scale, *, steps: int, dropout: float) -> None:
        super().__init__()
        first, last = scale.channels
        self.conv = nn.Conv2d(scale.features, first, (1, KERNEL), padding=(0, KERNEL // 2), bias=False)
        self.block1 = SeriesBlock(first, first, kernel=KERNEL, stride=1, dropout=dropout)
        self.block2 = SeriesBlock(first, last, kernel=KERNEL, stride=2, dropout=dropout)
        self.norm1 = norm(last)
        self.mlp = nn.Linear(last * -(-steps // 2), scale.width)
        self.norm2 = nn.LayerNorm(scale.width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Every segment by the same network."""
        h = self.dropout(F.relu(self.norm1(self.block2(self.block1(self.conv(x))))))
        found: Tensor = self.dropout(F.relu(self.norm2(self.mlp(h.transpose(1, 2).flatten(2)))))
        return found
