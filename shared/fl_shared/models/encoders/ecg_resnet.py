"""1-D residual network for ECGs.

Pre-activation residual blocks (He et al. 2016, Identity Mappings, fig. 1b) with GroupNorm (Wu and He 2018); the
layout follows the ECG ResNets compared in Strodthoff et al. 2021 (PTB-XL benchmark), cut down to small cohorts.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.blocks import norm, residual_stages
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

CHANNELS = (32, 64, 128)
TOKENS = 16  # about two thirds of a second each on a 10 s record
GAIN = 5.0  # per mV: a lead of an ECG has a standard deviation of about 0.2 mV
STEM_RATE = 50.0  # Hz after the stem
STEM_SECONDS = 0.15  # about one QRS complex


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
        self.stages = residual_stages(CHANNELS[0], CHANNELS, dropout=dropout)
        self.norm = norm(CHANNELS[-1])

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Missing leads are silenced; the offset of a lead carries no diagnosis and is removed."""
        signal = torch.where(inputs["lead_mask"][:, :, None], inputs["signal"], 0.0)
        return State(map=self.conv(GAIN * (signal - signal.mean(-1, keepdim=True))))

    def run_stage(self, index: int, state: State) -> State:
        """One residual block."""
        return state.after(self.stages[index](state.map))

    def finish(self, state: State) -> EncoderOutput:
        """Pool the last map to the tokens."""
        h = F.relu(self.norm(state.map))
        tokens = torch.cat([F.adaptive_avg_pool1d(h, TOKENS), F.adaptive_max_pool1d(h, TOKENS)], 1).transpose(1, 2)
        pooled = torch.cat([h.mean(-1), h.amax(-1)], dim=1)
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


@ENCODERS.register("ecg_resnet", kind="waveform", source="He et al. 2016; Strodthoff et al. 2021")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> EcgResNet:
    """The encoder of a waveform modality."""
    if plan.rate is None:  # the study's own check; said here for the type
        raise ValueError("a waveform needs a rate")
    return loaded(EcgResNet(leads=len(plan.leads), rate=plan.rate, dropout=model.dropout), weights)
