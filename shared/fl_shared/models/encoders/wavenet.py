"""WaveNet over ECGs: causal dilated convolutions with gates (van den Oord et al. 2016), LeMoF's third ECG encoder.

Three stacks of eight layers, of 2 samples each with dilations 1, 2, .. 128. A layer's gated unit tanh(.) sigmoid(.)
adds to the stream (eq. 2, fig. 4) and to the skip sum; behind that come a GroupNorm and a map to 256 channels, each
with a ReLU. LeMoF states no sizes; ours: 64 channels, 609,408 parameters at 12 leads. The last layer's map to the
stream, which nothing reads, is left out: with it 613,568.

A step sees the 766 samples up to itself: 7.7 s at 100 Hz, 6.1 s at 125 Hz, but 1.5 s, a beat or two, at 500 Hz. The
study's ``rate`` decides that, and should be 100 to 125. Nothing is strided: time and memory of a step of training grow
with the samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.blocks import norm
from fl_shared.models.encoders.waveforms import centred, stretches
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

STACKS = 3


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """channels of stream and skip sum; width behind them; layers of a stack, with dilations 1, 2, 4, ..."""

    channels: int
    width: int
    layers: int


SIZES = {"small": Sizes(channels=16, width=64, layers=8), "paper": Sizes(channels=64, width=256, layers=8)}


class GatedLayer(nn.Module):
    """stream (B, C, S) -> stream, and what it adds to the skip sum; the last one of all leaves the stream out."""

    def __init__(self, channels: int, *, dilation: int, last: bool) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, 2 * channels, 2, dilation=dilation)
        self.skip = nn.Conv1d(channels, channels, 1)
        self.residual = None if last else nn.Conv1d(channels, channels, 1)
        self.dilation = dilation

    def forward(self, stream: Tensor) -> tuple[Tensor, Tensor]:
        """Each step and the one ``dilation`` before it; before the first there is 0."""
        content, gate = self.conv(F.pad(stream, (self.dilation, 0))).chunk(2, dim=1)
        unit = content.tanh() * gate.sigmoid()
        return stream if self.residual is None else stream + self.residual(unit), self.skip(unit)


class Stack(nn.Module):
    """stream and skip sum (B, C, S) -> the same behind layers of dilation 1, 2, 4, .."""

    def __init__(self, channels: int, *, layers: int, last: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            GatedLayer(channels, dilation=2**k, last=last and k == layers - 1) for k in range(layers)
        )

    def forward(self, stream: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
        """One layer after the other."""
        for layer in self.layers:
            stream, skip = layer(stream)
            total = total + skip
        return stream, total


class WaveNet(StagedEncoder):
    """``signal`` (B, leads, samples) mV and ``lead_mask`` (B, leads) -> 16 tokens of the sizes' width.

    The levels are the ends of the stacks. A map holds the stream and the skip sum so far, the last one the sum only, so
    that what a fusion does to it reaches the output. Pooled is the mean over time.
    """

    def __init__(self, *, leads: int, sizes: Sizes) -> None:
        super().__init__()
        channels, self.width = sizes.channels, sizes.width
        self.stage_channels = (*[2 * channels] * (STACKS - 1), channels)
        self.entry = nn.Conv1d(leads, channels, 1)
        self.stages = nn.ModuleList(
            Stack(channels, layers=sizes.layers, last=number == STACKS - 1) for number in range(STACKS)
        )
        self.norm = norm(channels)
        self.out = nn.Conv1d(channels, sizes.width, 1)

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Leads to channels, sample by sample; the skip sum is 0."""
        stream = self.entry(centred(inputs))
        return State(map=torch.cat([stream, torch.zeros_like(stream)], dim=1))

    def run_stage(self, index: int, state: State) -> State:
        """One stack."""
        stream, total = state.map.chunk(2, dim=1)
        stream, total = self.stages[index](stream, total)
        return state.after(total if index == STACKS - 1 else torch.cat([stream, total], dim=1))

    def finish(self, state: State) -> EncoderOutput:
        """Means over time of what the skip sum is mapped to."""
        h = F.relu(self.out(F.relu(self.norm(state.map))))
        tokens = stretches(h)
        return EncoderOutput(pooled=h.mean(-1), tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


@ENCODERS.register("wavenet", kind="waveform", source="van den Oord et al. 2016; LeMoF")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> WaveNet:
    """The encoder of a waveform modality; the small one has 16 channels."""
    return loaded(WaveNet(leads=len(plan.leads), sizes=SIZES[model.preset]), weights)
