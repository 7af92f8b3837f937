"""1-D ResNet-34 for ECGs, with GroupNorm: LeMoF's "ResNet".

He et al. 2016 (Deep Residual Learning, table 1) with kernels of 3 and 7 steps, as MONAI's ResNet has it in one
dimension; BatchNorm would mix patients. 7,223,168 parameters at 12 leads without the classifier; 7.23 million with one.
A step of the last map is 32 samples, a third of a second at 100 Hz. (`ecg_resnet` is ours: smaller, pre-activated.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.waveforms import ConvNorm, centred, stretches
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan


@dataclass(frozen=True, kw_only=True)
class Shape:
    """channels and blocks of each stage."""

    channels: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]


SHAPES = {
    "small": Shape(channels=(16, 32, 64, 128), blocks=(1, 1, 1, 1)),
    "paper": Shape(channels=(64, 128, 256, 512), blocks=(3, 4, 6, 3)),
}


class Block(nn.Module):
    """Residual block (He et al. 2016, fig. 5, left): x (B, C_in, S) -> (B, C_out, ceil(S / stride))."""

    def __init__(self, inputs: int, outputs: int, *, stride: int) -> None:
        super().__init__()
        self.first = ConvNorm(inputs, outputs, 3, stride=stride)
        self.second = ConvNorm(outputs, outputs, 3)
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """ReLU between the convolutions, and after the sum; nothing in place."""
        return F.relu(self.second(F.relu(self.first(x))) + self.skip(x))


class EcgResNet34(StagedEncoder):
    """``signal`` (B, leads, samples) mV and ``lead_mask`` (B, leads) -> 16 tokens as wide as the last of four maps.

    Pooled is the mean over time. The levels are the last three stages.
    """

    def __init__(self, *, leads: int, shape: Shape) -> None:
        super().__init__()
        self.stage_channels, self.width = shape.channels, shape.channels[-1]
        self.entry = ConvNorm(leads, inputs := shape.channels[0], 7, stride=2)
        self.stages = nn.ModuleList()
        for number, (outputs, blocks) in enumerate(zip(shape.channels, shape.blocks, strict=True)):
            first = Block(inputs, outputs, stride=1 if number == 0 else 2)
            self.stages.append(nn.Sequential(first, *(Block(outputs, outputs, stride=1) for _ in range(blocks - 1))))
            inputs = outputs

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """A convolution and a maximum: a quarter of the samples."""
        return State(map=F.max_pool1d(F.relu(self.entry(centred(inputs))), 3, stride=2, padding=1))

    def run_stage(self, index: int, state: State) -> State:
        """Its residual blocks."""
        return state.after(self.stages[index](state.map))

    def finish(self, state: State) -> EncoderOutput:
        """Means over time."""
        tokens = stretches(state.map)
        pooled = state.map.mean(-1)
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=all_valid(tokens), levels=state.done[-3:])


@ENCODERS.register("ecg_resnet34", kind="waveform", source="He et al. 2016, in one dimension; LeMoF")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> EcgResNet34:
    """The encoder of a waveform modality; the small one has a block a stage, of 16 to 128 channels."""
    return loaded(EcgResNet34(leads=len(plan.leads), shape=SHAPES[model.preset]), weights)
