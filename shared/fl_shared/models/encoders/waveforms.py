"""What the encoders of waveforms share: reading the leads, convolutions with a norm, tokens of a map."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.blocks import norm
from fl_shared.models.encoders.ecg_resnet import GAIN, TOKENS


def centred(inputs: Mapping[str, Tensor]) -> Tensor:
    """``signal`` (B, leads, samples) mV, scaled to about 1; missing leads and the offset of a lead are 0."""
    signal = torch.where(inputs["lead_mask"][:, :, None], inputs["signal"], 0.0)
    return GAIN * (signal - signal.mean(-1, keepdim=True))


def stretches(features: Tensor) -> Tensor:
    """Means over 16 stretches of time: (B, C, S) -> tokens (B, 16, C); of fewer steps, some are repeated."""
    return F.adaptive_avg_pool1d(features, TOKENS).transpose(1, 2)


class ConvNorm(nn.Module):
    """x (B, C_in, S) -> (B, C_out, ceil(S / stride)): convolution of an odd kernel without bias, GroupNorm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        out: Tensor = self.norm(self.conv(x))
        return out
