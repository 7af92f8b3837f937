"""2-D residual networks for single images: ResNet-34 and ResNet-50 with GroupNorm.

He et al. 2016 (Deep Residual Learning, table 1), as MedFuse (Hayat et al. 2022) and DrFuse read radiographs; BatchNorm
would mix patients. 21,284,672 and 23,508,032 parameters, as many as in that table without the classifier. The stride of
a bottleneck is in its 3 x 3 convolution, as libraries have it today. MONAI's ResNet (1.6.1) keeps BatchNorm inside its
blocks whatever norm it is given and adds in place, which the hooks of per-patient gradients forbid; it is the oracle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.blocks import norm
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

COLOURS = 3  # the published stem reads colour images: grey is repeated


@dataclass(frozen=True, kw_only=True)
class Shape:
    """planes: channels of the 3 x 3 convolutions of each stage; blocks: of each.

    bottleneck: 1 x 1, 3 x 3, 1 x 1 instead of two 3 x 3. pool: the stem pools too, by 2 (not for images of 64 pixels,
    of which 2 x 2 positions would be left).
    """

    planes: tuple[int, int, int, int]
    blocks: tuple[int, int, int, int]
    bottleneck: bool
    pool: bool

    @property
    def channels(self) -> tuple[int, ...]:
        """Of the stages' maps."""
        return tuple(4 * p if self.bottleneck else p for p in self.planes)


SHAPES = {
    "resnet34": {
        "small": Shape(planes=(16, 32, 64, 128), blocks=(1, 1, 1, 1), bottleneck=False, pool=False),
        "paper": Shape(planes=(64, 128, 256, 512), blocks=(3, 4, 6, 3), bottleneck=False, pool=True),
    },
    "resnet50": {
        "small": Shape(planes=(8, 16, 32, 64), blocks=(1, 1, 1, 1), bottleneck=True, pool=False),
        "paper": Shape(planes=(64, 128, 256, 512), blocks=(3, 4, 6, 3), bottleneck=True, pool=True),
    },
}


class ConvNorm(nn.Module):
    """x (B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride)): convolution without bias, GroupNorm."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve and normalise."""
        out: Tensor = self.norm(self.conv(x))
        return out


class Block(nn.Module):
    """Residual block (He et al. 2016, fig. 5): x (B, C_in, H, W) -> (B, C_out, ceil(H / stride), ceil(W / stride))."""

    def __init__(self, inputs: int, plane: int, *, bottleneck: bool, stride: int) -> None:
        super().__init__()
        outputs = 4 * plane if bottleneck else plane
        if bottleneck:
            parts = [ConvNorm(inputs, plane, 1), ConvNorm(plane, plane, 3, stride=stride), ConvNorm(plane, outputs, 1)]
        else:
            parts = [ConvNorm(inputs, plane, 3, stride=stride), ConvNorm(plane, outputs, 3)]
        self.parts = nn.ModuleList(parts)
        same = stride == 1 and inputs == outputs
        self.skip = nn.Identity() if same else ConvNorm(inputs, outputs, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """ReLU between the parts, and after the sum; nothing in place."""
        h = x
        for part in self.parts[:-1]:
            h = F.relu(part(h))
        return F.relu(self.parts[-1](h) + self.skip(x))


class ResNet(StagedEncoder):
    """``pixels`` (B, 1, size, size) -> a token a position of the last of four maps; pooled is their mean.

    A side of the last map is a 32nd of the image's (a 16th where the stem does not pool). The levels are the last three
    stages.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.stage_channels, self.width = shape.channels, shape.channels[-1]
        self._pool = shape.pool
        self.entry = ConvNorm(COLOURS, inputs := shape.planes[0], 7, stride=2)
        self.stages = nn.ModuleList()
        for number, (plane, blocks, outputs) in enumerate(zip(shape.planes, shape.blocks, shape.channels, strict=True)):
            first = Block(inputs, plane, bottleneck=shape.bottleneck, stride=1 if number == 0 else 2)
            rest = (Block(outputs, plane, bottleneck=shape.bottleneck, stride=1) for _ in range(blocks - 1))
            self.stages.append(nn.Sequential(first, *rest))
            inputs = outputs

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Grey in three like colours."""
        grey = inputs["pixels"].to(self.entry.conv.weight.dtype)
        h = F.relu(self.entry(grey.expand(-1, COLOURS, -1, -1)))
        return State(map=F.max_pool2d(h, 3, stride=2, padding=1) if self._pool else h)

    def run_stage(self, index: int, state: State) -> State:
        """Its residual blocks."""
        return state.after(self.stages[index](state.map))

    def finish(self, state: State) -> EncoderOutput:
        """Positions row by row."""
        tokens = state.map.flatten(2).transpose(1, 2)
        pooled = tokens.mean(1)
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=all_valid(tokens), levels=state.done[-3:])


@ENCODERS.register("resnet34", kind="image", source="He et al. 2016; Hayat et al. 2022 (MedFuse)")
def build_34(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> ResNet:
    """The encoder of an image modality."""
    return loaded(ResNet(SHAPES["resnet34"][model.preset]), weights)


@ENCODERS.register("resnet50", kind="image", source="He et al. 2016; DrFuse")
def build_50(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> ResNet:
    """The encoder of an image modality."""
    return loaded(ResNet(SHAPES["resnet50"][model.preset]), weights)
