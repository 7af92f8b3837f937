"""MedM2T's ECG encoder: a residual network and an MLP over its flattened map (MedM2T, arXiv v2, table B1).

The network is that of Ribeiro et al. 2020 (Automatic diagnosis of the 12-lead ECG using a deep neural network, fig. 3),
written as pre-activation blocks; GroupNorm and LayerNorm stand where it has BatchNorm, which mixes patients. Paper
sizes: 2,154,720 parameters and 4,097,920 of the MLP. A patient has one record here: nothing fuses several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.blocks import SeriesBlock, norm
from fl_shared.models.encoders.ecg_resnet import GAIN
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

RATE = 125.0  # Hz after the first convolution; the paper's records have it
STRIDES = (1, 2, 2, 4, 2)  # 640 samples -> 640, 320, 160, 40, 20
STAGES = ((0, 1), (2, 3), (4,))  # blocks of a stage
KERNEL = 5
STEPS = 20  # of the flattened map; maps of another length are brought to it by adaptive means
JOINED = 2  # steps a token: then it is as wide as the MLP's vector, and no parameters are added
DROPOUT = 0.3  # of the published sizes


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """channels of the five blocks; dropout of blocks and MLP."""

    channels: tuple[int, int, int, int, int]
    dropout: float


class Medm2tEcg(StagedEncoder):
    """``signal`` (B, leads, samples) mV and ``lead_mask`` (B, leads) -> 10 tokens; a token joins two of 20 steps.

    Any number of leads and samples: 20 steps are a quarter of a second each on the paper's 5 s. Records of more than
    125 Hz are brought near to it by the stride of the first convolution.
    """

    def __init__(self, *, leads: int, rate: float, sizes: Sizes) -> None:
        super().__init__()
        channels, last = sizes.channels, sizes.channels[-1]
        self.width = JOINED * last
        self.stage_channels = tuple(channels[blocks[-1]] for blocks in STAGES)
        stride = max(1, round(rate / RATE))
        self.conv = nn.Conv1d(leads, channels[0], KERNEL, stride=stride, padding=KERNEL // 2, bias=False)
        self.blocks = nn.ModuleList(
            SeriesBlock(i, o, kernel=KERNEL, stride=s, dropout=sizes.dropout)
            for i, o, s in zip((channels[0], *channels[:-1]), channels, STRIDES, strict=True)
        )
        self.norm = norm(last)
        self.mlp = nn.Linear(STEPS * last, self.width)
        self.mlp_norm = nn.LayerNorm(self.width)
        self.dropout = nn.Dropout(sizes.dropout)

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Missing leads are read as 0; the offset of a lead carries no diagnosis and is removed."""
        signal = torch.where(inputs["lead_mask"][:, :, None], inputs["signal"], 0.0)
        return State(map=self.conv(GAIN * (signal - signal.mean(-1, keepdim=True))))

    def run_stage(self, index: int, state: State) -> State:
        """One or two residual blocks."""
        h = state.map[:, :, None]
        for block in STAGES[index]:
            h = self.blocks[block](h)
        return state.after(h[:, :, 0])

    def finish(self, state: State) -> EncoderOutput:
        """The MLP's vector; tokens are what it reads, in stretches of as many numbers."""
        steps = F.adaptive_avg_pool1d(self.dropout(F.relu(self.norm(state.map))), STEPS).transpose(1, 2)
        pooled = self.dropout(F.relu(self.mlp_norm(self.mlp(steps.flatten(1)))))
        tokens = steps.reshape(len(steps), STEPS // JOINED, self.width)
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


@ENCODERS.register("medm2t_ecg", kind="waveform", source="MedM2T, ECG signal; Ribeiro et al. 2020")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> Medm2tEcg:
    """The encoder of a waveform modality; the small one has channels of 16 to 48."""
    if plan.rate is None:  # the study's own check; said here for the type
        raise ValueError("a waveform needs a rate")
    paper = Sizes(channels=(64, 128, 196, 256, 320), dropout=DROPOUT)
    small = Sizes(channels=(16, 24, 32, 40, 48), dropout=model.dropout)
    sizes = paper if model.preset == "paper" else small
    return loaded(Medm2tEcg(leads=len(plan.leads), rate=plan.rate, sizes=sizes), weights)
