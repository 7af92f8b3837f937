"""A small 1-D residual network over the bins of irregular events, for CPUs and small cohorts.

The blocks of the ECG encoder. A bin without a value repeats the last one before it, beside a channel that says whether
it was observed (Lipton et al. 2016, Directly modeling missing data in sequences with RNNs).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.ecg_resnet import ResidualBlock, norm
from fl_shared.models.interface import EncoderOutput, Level, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.weights import load_into
from fl_shared.study import ModalityPlan, ModelPlan

STEM = 64
CHANNELS = (64, 64, 128)


class EventsCnn(StagedEncoder):
    """``values`` and ``observed`` (B, bins, fields) -> ceil(bins / 8) tokens of width 256.

    Tokens hold the mean and the maximum of each channel over their bins' stretch.
    """

    stage_channels = CHANNELS
    width = 2 * CHANNELS[-1]

    def __init__(self, *, fields: int, dropout: float) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2 * fields, STEM, 3, padding=1)
        inputs = (STEM, *CHANNELS[:-1])
        self.stages = nn.ModuleList(ResidualBlock(i, o, dropout=dropout) for i, o in zip(inputs, CHANNELS, strict=True))
        self.norm = norm(CHANNELS[-1])

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Values carried forward, and what was observed."""
        values, observed = inputs["values"], inputs["observed"]
        carried = carry_forward(values, observed)
        return State(map=self.conv(torch.cat([carried, observed.to(values.dtype)], dim=2).transpose(1, 2)), mask=None)

    def run_stage(self, index: int, state: State, cond: Tensor | None = None) -> State:
        """One residual block, half as many steps."""
        h: Tensor = self.stages[index](state.map)
        return State(map=h, mask=None, done=(*state.done, Level(map=h, vec=h.mean(-1))))

    def finish(self, state: State) -> EncoderOutput:
        """Each step of the last map is a token."""
        first, second, third = state.done
        h = F.relu(self.norm(state.map))
        tokens = torch.cat([h, F.max_pool1d(h, 3, stride=1, padding=1)], dim=1).transpose(1, 2)
        pooled = torch.cat([h.mean(-1), h.amax(-1)], dim=1)
        mask = tokens.new_ones(tokens.shape[:2]).bool()
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=mask, levels=(first, second, third))


def carry_forward(values: Tensor, observed: Tensor) -> Tensor:
    """Values (B, bins, fields) with every gap filled by the last observed value before it; 0 before the first."""
    bins = torch.arange(values.shape[1], device=values.device)[None, :, None]
    last = torch.where(observed, bins, -1).cummax(dim=1).values
    carried = values.gather(1, last.clamp(min=0))
    return torch.where(last >= 0, carried, torch.zeros_like(carried))


@ENCODERS.register("events_cnn", kind="events", source="He et al. 2016; Lipton et al. 2016 (missingness)")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> EventsCnn:
    """The encoder of an events modality."""
    encoder = EventsCnn(fields=len(plan.fields), dropout=model.dropout)
    if weights is not None:
        load_into(encoder, weights)
    return encoder
