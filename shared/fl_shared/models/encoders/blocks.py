"""Norm and residual blocks that the small convolutional encoders share."""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

from torch import Tensor, nn
from torch.nn import functional as F


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm (Wu and He 2018) in at most eight groups: BatchNorm would mix patients."""
    return nn.GroupNorm(gcd(8, channels), channels)


class ResidualBlock(nn.Module):
    """Pre-activation block (He et al. 2016, Identity Mappings, fig. 1b): x (B, C_in, S) -> (B, C_out, ceil(S / 2))."""

    def __init__(self, inputs: int, outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv1d(inputs, outputs, 5, stride=2, padding=2, bias=False)
        self.norm2 = norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv1d(outputs, outputs, 5, padding=2, bias=False)
        self.skip = nn.Conv1d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        h = self.conv1(F.relu(self.norm1(x)))
        h = self.conv2(self.dropout(F.relu(self.norm2(h))))
        shortcut: Tensor = self.skip(F.avg_pool1d(x, 2, ceil_mode=True))
        out: Tensor = shortcut + h
        return out


def residual_stages(inputs: int, channels: Sequence[int], *, dropout: float) -> nn.ModuleList:
    """A block a stage, from ``inputs`` channels on."""
    pairs = zip((inputs, *channels[:-1]), channels, strict=True)
    return nn.ModuleList(ResidualBlock(before, after, dropout=dropout) for before, after in pairs)


class SeriesBlock(nn.Module):
    """x (B, C_in, R, S) -> (B, C_out, R, ceil(S / stride)): R series of a patient, each by itself.

    The skip has a convolution only where the number of channels changes.
    """

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int, dropout: float) -> None:
        super().__init__()
        size, pad = (1, kernel), (0, kernel // 2)
        self.stride = stride
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, size, padding=pad, bias=False)
        self.norm2 = norm(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, size, stride=(1, stride), padding=pad, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        h = self.conv1(self.dropout(F.relu(self.norm1(x))))
        h = self.conv2(self.dropout(F.relu(self.norm2(h))))
        found: Tensor = h + self.skip(F.max_pool2d(x, (1, self.stride), ceil_mode=True))
        return found
