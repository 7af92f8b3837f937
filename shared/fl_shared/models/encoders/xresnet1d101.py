"""XResNet-101 in one dimension, the best network of the PTB-XL benchmark (Strodthoff et al. 2021), with GroupNorm.

He et al. 2019 (Bag of Tricks): a stem of three convolutions (ResNet-C), and shortcuts that average before they map
(ResNet-D). Every stage is 64 wide and 256 behind its last convolution, kernels have 5 steps. 1,804,672 parameters at 12
leads; the published 1.87 million hold the benchmark's head: norm, 512 -> 128, norm, classes. Here tokens and pooled
vector are what that head reads, the mean and the maximum of each channel (concat pooling), and the head is the model's.
The benchmark has 100 Hz; a step of the last map is 32 samples. The last norm of a block starts at 1, not 0: from 0
nothing within a block would learn in the first step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.ecg_resnet import TOKENS
from fl_shared.models.encoders.waveforms import ConvNorm, centred, stretches
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

KERNEL = 5
EXPANSION = 4


@dataclass(frozen=True, kw_only=True)
class Shape:
    """stem: channels of its three convolutions; plane: of the middle of a block; blocks: of each stage."""

    stem: tuple[int, int, int]
    plane: int
    blocks: tuple[int, int, int, int]


SHAPES = {
    "small": Shape(stem=(8, 8, 16), plane=16, blocks=(1, 1, 2, 1)),
    "paper": Shape(stem=(32, 32, 64), plane=64, blocks=(3, 4, 23, 3)),
}


class Bottleneck(nn.Module):
    """x (B, C_in, S) -> (B, 4 plane, ceil(S / stride))."""

    def __init__(self, inputs: int, plane: int, *, stride: int) -> None:
        super().__init__()
        outputs = EXPANSION * plane
        self.narrow = ConvNorm(inputs, plane, 1)
        self.middle = ConvNorm(plane, plane, KERNEL, stride=stride)
        self.wide = ConvNorm(plane, outputs, 1)
        mean = nn.Identity() if stride == 1 else nn.AvgPool1d(stride, ceil_mode=True)
        self.skip = nn.Sequential(mean, nn.Identity() if inputs == outputs else ConvNorm(inputs, outputs, 1))

    def forward(self, x: Tensor) -> Tensor:
        """ReLU between the convolutions, and after the sum."""
        h = self.wide(F.relu(self.middle(F.relu(self.narrow(x)))))
        return F.relu(h + self.skip(x))


class XResNet1d(StagedEncoder):
    """``signal`` (B, leads, samples) mV and ``lead_mask`` (B, leads) -> 16 tokens, twice as wide as the four maps.

    The levels are the last three stages.
    """

    def __init__(self, *, leads: int, shape: Shape) -> None:
        super().__init__()
        width = EXPANSION * shape.plane
        self.stage_channels, self.width = (width,) * len(shape.blocks), 2 * width
        pairs = zip((leads, *shape.stem[:-1]), shape.stem, (2, 1, 1), strict=True)
        self.entry = nn.ModuleList(ConvNorm(i, o, KERNEL, stride=stride) for i, o, stride in pairs)
        self.stages = nn.ModuleList()
        inputs = shape.stem[-1]
        for number, blocks in enumerate(shape.blocks):
            first = Bottleneck(inputs, shape.plane, stride=1 if number == 0 else 2)
            rest = (Bottleneck(width, shape.plane, stride=1) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *rest))
            inputs = width

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Three convolutions and a maximum: a quarter of the samples."""
        h = centred(inputs)
        for part in self.entry:
            h = F.relu(part(h))
        return State(map=F.max_pool1d(h, 3, stride=2, padding=1))

    def run_stage(self, index: int, state: State) -> State:
        """Its residual blocks."""
        return state.after(self.stages[index](state.map))

    def finish(self, state: State) -> EncoderOutput:
        """Means and maxima over time."""
        most = F.adaptive_max_pool1d(state.map, TOKENS).transpose(1, 2)
        tokens = torch.cat([stretches(state.map), most], dim=2)
        pooled = torch.cat([state.map.mean(-1), state.map.amax(-1)], dim=1)
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=all_valid(tokens), levels=state.done[-3:])


@ENCODERS.register("xresnet1d101", kind="waveform", source="Strodthoff et al. 2021; He et al. 2019 (Bag of Tricks)")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> XResNet1d:
    """The encoder of a waveform modality; the small one has 5 blocks, 64 wide."""
    return loaded(XResNet1d(leads=len(plan.leads), shape=SHAPES[model.preset]), weights)
