"""1-D residual network for ECGs.

Pre-activation residual blocks (He et al. 2016, Identity Mappings, fig. 1b) with GroupNorm (Wu and He 2018); the
layout follows the ECG ResNets compared in Strodthoff et al. 2021 (PTB-XL benchmark), cut down to small cohorts.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.interface import EncoderOutput, Level, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.weights import load_into
from fl_shared.study import ModalityPlan, ModelPlan

CHANNELS = (32, 64, 128)
TOKENS = 16  # about two thirds of a second each on a 10 s record
GAIN = 5.0  # per mV: a lead of an ECG has a standard deviation of about 0.2 mV
STEM_RATE = 50.0  # Hz after the stem
STEM_SECONDS = 0.15  # about one QRS complex


def norm(channels: int) -> nn.GroupNorm:
    """GroupNorm in at most eight groups."""
    return nn.GroupNorm(gcd(8, channels), channels)


class ResidualBlock(nn.Module):
    """x (B, C_in, S) -> (B, C_out, ceil(S / 2))."""

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


class EcgResNet(StagedEncoder):
    """``signal`` (B, leads, samples) mV and ``lead_mask`` (B, leads) -> 16 tokens of width 256.

    Tokens and pooled vector hold the mean and the maximum of each channel (concat pooling, Strodthoff et al. 2021).
    """

    stage_channels = CHANNELS
    width = 2 * CHANNELS[-1]

    def __init__(self, *, leads: int, rate: float, dropout: float) -> None:
        super().__init__()
        kernel = 2 * round(STEM_SECONDS * rate / 2) + 1
        stride = max(1, round(rate / STEM_RATE))
        self.conv = nn.Conv1d(leads, CHANNELS[0], kernel, stride=stride, padding=kernel // 2)
        inputs = (CHANNELS[0], *CHANNELS[:-1])
        self.stages = nn.ModuleList(ResidualBlock(i, o, dropout=dropout) for i, o in zip(inputs, CHANNELS, strict=True))
        self.norm = norm(CHANNELS[-1])

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Missing leads are silenced; the offset of a lead carries no diagnosis and is removed."""
        signal = inputs["signal"]
        signal = GAIN * (signal - signal.mean(-1, keepdim=True)) * inputs["lead_mask"][:, :, None].to(signal.dtype)
        return State(map=self.conv(signal), mask=None)

    def run_stage(self, index: int, state: State, cond: Tensor | None = None) -> State:
        """One residual block."""
        h: Tensor = self.stages[index](state.map)
        return State(map=h, mask=None, done=(*state.done, Level(map=h, vec=h.mean(-1))))

    def finish(self, state: State) -> EncoderOutput:
        """Pool the last map to the tokens."""
        first, second, third = state.done
        h = F.relu(self.norm(state.map))
        tokens = torch.cat([F.adaptive_avg_pool1d(h, TOKENS), F.adaptive_max_pool1d(h, TOKENS)], 1).transpose(1, 2)
        pooled = torch.cat([h.mean(-1), h.amax(-1)], dim=1)
        mask = tokens.new_ones(tokens.shape[:2]).bool()
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=mask, levels=(first, second, third))


@ENCODERS.register("ecg_resnet", kind="waveform", source="He et al. 2016; Strodthoff et al. 2021")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> EcgResNet:
    """The encoder of a waveform modality."""
    if plan.rate is None:  # the study's own check; said here for the type
        raise ValueError("a waveform needs a rate")
    encoder = EcgResNet(leads=len(plan.leads), rate=plan.rate, dropout=model.dropout)
    if weights is not None:
        load_into(encoder, weights)
    return encoder
