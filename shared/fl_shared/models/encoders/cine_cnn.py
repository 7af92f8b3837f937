"""A small 3-D residual network for cine CMR, for CPUs and small cohorts.

Residual blocks as in the ECG encoder (He et al. 2016, GroupNorm), in space and time; the frames of a heart beat stay
apart, so that each is a token. Slices are input channels. Patients stay on dimension 0 of every layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.blocks import norm
from fl_shared.models.interface import EncoderOutput, Level, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import token_mean
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

STEM = 8
CHANNELS = (16, 32, 64)


class CineBlock(nn.Module):
    """x (B, C_in, T, H, W) -> (B, C_out, T, ceil(H / 2), ceil(W / 2))."""

    def __init__(self, inputs: int, outputs: int, *, dropout: float) -> None:
        super().__init__()
        self.norm1 = norm(inputs)
        self.conv1 = nn.Conv3d(inputs, outputs, 3, stride=(1, 2, 2), padding=1, bias=False)
        self.norm2 = norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv3d(outputs, outputs, (1, 3, 3), padding=(0, 1, 1), bias=False)
        self.skip = nn.Conv3d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        h = self.conv1(F.relu(self.norm1(x)))
        h = self.conv2(self.dropout(F.relu(self.norm2(h))))
        shortcut: Tensor = self.skip(F.avg_pool3d(x, (1, 2, 2), ceil_mode=True))
        out: Tensor = shortcut + h
        return out


class CineCnn(StagedEncoder):
    """``video`` (B, T, slices, H, W), ``frame_mask`` and ``slice_mask`` -> T tokens of width 128.

    Tokens and pooled vector hold the mean and the maximum of each channel over space (and, pooled, over true frames).
    """

    stage_channels = CHANNELS
    width = 2 * CHANNELS[-1]

    def __init__(self, *, slices: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv3d(slices, STEM, (1, 5, 5), stride=(1, 2, 2), padding=(0, 2, 2))
        inputs = (STEM, *CHANNELS[:-1])
        self.stages = nn.ModuleList(CineBlock(i, o, dropout=dropout) for i, o in zip(inputs, CHANNELS, strict=True))
        self.norm = norm(CHANNELS[-1])

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Slices to channels; frames and slices that are none are black, whatever they hold."""
        mask = inputs["frame_mask"]
        there = mask[:, :, None] & inputs["slice_mask"][:, None, :]
        video = torch.where(there[..., None, None], inputs["video"], 0).to(self.conv.weight.dtype)
        return State(map=self.conv(video.transpose(1, 2)), mask=mask)

    def run_stage(self, index: int, state: State) -> State:
        """One residual block."""
        h: Tensor = self.stages[index](state.map)
        there = state.valid[:, :, None, None].expand(-1, -1, *h.shape[3:])
        return State(map=h, mask=state.mask, done=(*state.done, Level(map=h, mask=there)))

    def finish(self, state: State) -> EncoderOutput:
        """Pool the last map over space."""
        h = F.relu(self.norm(state.map))
        tokens = torch.cat([h.mean((3, 4)), h.amax((3, 4))], dim=1).transpose(1, 2)
        pooled = token_mean(tokens, state.valid)
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=state.valid, levels=state.done)


@ENCODERS.register("cine_cnn", kind="cine", source="He et al. 2016, in space and time")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> CineCnn:
    """The encoder of a cine modality."""
    return loaded(CineCnn(slices=plan.slices, dropout=model.dropout), weights)
