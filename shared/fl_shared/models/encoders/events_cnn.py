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

from fl_shared.models.encoders.blocks import norm, residual_stages
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
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
        self.stages = residual_stages(STEM, CHANNELS, dropout=dropout)
        self.norm = norm(CHANNELS[-1])

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Values carried forward, and what was observed."""
        return State(map=self.conv(carried_and_observed(inputs)))

    def run_stage(self, index: int, state: State) -> State:
        """One residual block, half as many steps."""
        return state.after(self.stages[index](state.map))

    def finish(self, state: State) -> EncoderOutput:
        """Each step of the last map is a token."""
        h = F.relu(self.norm(state.map))
        tokens = torch.cat([h, F.max_pool1d(h, 3, stride=1, padding=1)], dim=1).transpose(1, 2)
        pooled = torch.cat([h.mean(-1), h.amax(-1)], dim=1)
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


def carry_forward(values: Tensor, observed: Tensor) -> Tensor:
    """Values (B, bins, fields) with every gap filled by the last observed value before it; 0 before the first."""
    bins = torch.arange(values.shape[1], device=values.device)[None, :, None]
    last = torch.where(observed, bins, -1).cummax(dim=1).values
    carried = values.gather(1, last.clamp(min=0))
    return torch.where(last >= 0, carried, 0.0)


def carried_and_observed(inputs: Mapping[str, Tensor]) -> Tensor:
    """Values carried forward, and beside them what was observed (B, 2 fields, bins)."""
    values, observed = inputs["values"], inputs["observed"]
    return torch.cat([carry_forward(values, observed), observed.to(values.dtype)], dim=2).transpose(1, 2)


@ENCODERS.register("events_cnn", kind="events", source="He et al. 2016; Lipton et al. 2016 (missingness)")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> EventsCnn:
    """The encoder of an events modality."""
    return loaded(EventsCnn(fields=len(plan.fields), dropout=model.dropout), weights)
