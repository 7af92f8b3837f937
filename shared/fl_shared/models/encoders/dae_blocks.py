"""Layers of DAE-Former: overlapping patches, and blocks with attention over positions and over channels.

Azad et al. 2023 (DAE-Former: Dual Attention-Guided Efficient Transformer for Medical Image Segmentation).
Everything is (B, frames, h, w, C); frames never see one another. The paper's 1x1 convolutions are linear
maps, which is the same. Written from the description; of the reference's parameters those that it never uses are left
out (two of three LayerNorms of a feed-forward network).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.frames import FrameConv

HEADS = 8  # of the channel attention
RATIO = 4  # hidden width of a feed-forward network


class PatchEmbedding(nn.Module):
    """Overlapping patches: x (B, F, H, W, C_in) -> (B, F, H / stride, W / stride, C_out)."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = FrameConv(inputs, outputs, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        out: Tensor = self.norm(self.conv(x))
        return out


class MixFfn(nn.Module):
    """Feed-forward network that sees its neighbours: fc2(GELU(LN(depthwise 3x3(h) + h))), h = fc1 x."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.conv = FrameConv(hidden, hidden, 3, padding=1, groups=hidden)
        self.norm = nn.LayerNorm(hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, F, h, w, C) -> the same shape."""
        h = self.fc1(x)
        out: Tensor = self.fc2(F.gelu(self.norm(self.conv(h) + h)))
        return out


def efficient_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """softmax over channels of Q times (softmax over positions of K, transposed, times V): linear in positions.

    Shen et al. 2021 (Efficient Attention, section 3). Each (B, F, h, w, C), one frame at a time -> the same shape.
    """
    q, k, v = (x.flatten(0, 1).flatten(1, 2) for x in (queries, keys, values))
    context = k.softmax(1).transpose(1, 2) @ v
    return (q.softmax(2) @ context).view(*values.shape)


class EfficientAttention(nn.Module):
    """Efficient attention of one head with its projections."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, F, h, w, C) -> the same shape."""
        out: Tensor = self.out(efficient_attention(*self.qkv(x).chunk(3, dim=-1)))
        return out


class Temperature(nn.Module):
    """Scores (B, …, heads, d, d) times a learned number a head; a leaf module, for per-patient gradients."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(heads))

    def forward(self, scores: Tensor) -> Tensor:
        """Multiply."""
        return scores * self.temperature[:, None, None]


class ChannelAttention(nn.Module):
    """Transposed attention: channels attend to channels, by the cosine of their maps (El-Nouby et al. 2021, XCiT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.temperature = Temperature(HEADS)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, F, h, w, C) -> the same shape."""
        qkv = torch.unflatten(self.qkv(x).flatten(2, 3), -1, (3, HEADS, -1))  # (B, F, N, 3, heads, d)
        q, k, v = qkv.permute(3, 0, 1, 4, 5, 2)  # each (B, F, heads, d, N)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)
        mixed = self.temperature(scores).softmax(-1) @ v
        out: Tensor = self.out(mixed.permute(0, 1, 4, 2, 3).reshape(x.shape))
        return out


class DualBlock(nn.Module):
    """Attention over positions, then over channels, each followed by a feed-forward network; all residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.space = EfficientAttention(width)
        self.norm2 = nn.LayerNorm(width)
        self.ffn1 = MixFfn(width, RATIO * width)
        self.norm3 = nn.LayerNorm(width)
        self.channels = ChannelAttention(width)
        self.norm4 = nn.LayerNorm(width)
        self.ffn2 = MixFfn(width, RATIO * width)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, F, h, w, C) -> the same shape."""
        x = x + self.space(self.norm1(x))
        x = x + self.ffn1(self.norm2(x))
        x = x + self.channels(self.norm3(x))
        out: Tensor = x + self.ffn2(self.norm4(x))
        return out
