"""MedM2T's Hierarchical Time-Aware Fusion for dense series: short segments, then all of them (arXiv v2).

Micro: attention between channels, then a residual network and an MLP on each of up to 24 overlapping segments, of two
lengths side by side. Macro: a residual network over the segments' vectors in order of time. All segments of a patient
stay in one row. Segments are regular here, one a time bin, so that no bin has several to average; one that lies before
the first measurement is an empty bin, left at 0 and masked.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.blocks import SeriesBlock, norm
from fl_shared.models.encoders.events_cnn import carry_forward
from fl_shared.models.encoders.segments import KERNEL, ChannelAttention, Scale, SegmentNetwork
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

SEGMENTS = 24  # at most
SHORTEST = 12  # bins of a short segment


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of short and long segments, of the macro network's last block, of pooled vector and tokens."""

    short: Scale
    long: Scale
    macro: int
    width: int


PAPER = Sizes(
    short=Scale(features=8, channels=(16, 32), width=128),
    long=Scale(features=16, channels=(32, 64), width=256),
    macro=192,
    width=256,
)
SMALL = Sizes(
    short=Scale(features=8, channels=(8, 16), width=16),
    long=Scale(features=8, channels=(8, 16), width=32),
    macro=32,
    width=48,
)


class HierarchicalSeries(StagedEncoder):
    """``values`` and ``observed`` (B, bins, fields) -> a token each two segments; pooled from all of them.

    A channel keeps its last value until the next. Stages: micro, then macro's two blocks. Tokens are brought to the
    width of the pooled vector by a linear map, which the paper has not.
    """

    def __init__(self, *, fields: int, bins: int, sizes: Sizes, dropout: float) -> None:
        super().__init__()
        short, long = self.segments = _segments(bins)
        joined, last = sizes.short.width + sizes.long.width, sizes.macro
        self.width, self.stage_channels = sizes.width, (joined, joined, last)
        self.features = (sizes.short.features, sizes.long.features)
        self.attention = nn.ModuleList(ChannelAttention(channels=fields, features=n) for n in self.features)
        self.micro = nn.ModuleList(
            SegmentNetwork(scale, steps=len(each[0]), dropout=dropout)
            for scale, each in ((sizes.short, short), (sizes.long, long))
        )
        self.conv = nn.Conv1d(joined, joined, KERNEL, padding=KERNEL // 2, bias=False)
        self.macro = nn.ModuleList(
            SeriesBlock(joined, outputs, kernel=KERNEL, stride=stride, dropout=dropout)
            for outputs, stride in ((joined, 1), (last, 2))
        )
        self.norm1 = norm(last)
        self.mlp = nn.Linear(last * -(-len(short) // 2), sizes.width)
        self.norm2 = nn.LayerNorm(sizes.width)
        self.token = nn.Linear(last, sizes.width)
        self.dropout = nn.Dropout(dropout)

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Features of both scales at every step (B, 8 + 8 or 8 + 16, bins); valid from the first measurement on."""
        fresh = inputs["observed"]
        values = carry_forward(inputs["values"], fresh).transpose(1, 2)
        fresh = fresh.transpose(1, 2)
        seen = fresh.cummax(2).values
        return State(map=torch.cat([f(values, fresh, seen) for f in self.attention], dim=1), mask=seen.any(1))

    def run_stage(self, index: int, state: State) -> State:
        """Micro: steps to segments; macro: segments, at last half as many."""
        h, mask = state.map, state.valid
        if index == 0:
            each = zip(self.micro, torch.split(h, list(self.features), dim=1), self.segments, strict=True)
            h = torch.cat([network(x[:, :, at]) for network, x, at in each], dim=2).transpose(1, 2)
            mask = torch.stack([mask[:, at].any(2) for at in self.segments]).any(0)
            h = torch.where(mask[:, None], h, 0.0)
        elif index == 1:
            h = self.macro[0](self.conv(h)[:, :, None])[:, :, 0]
        else:
            h = self.macro[1](h[:, :, None])[:, :, 0]
            mask = F.max_pool1d(mask.to(h.dtype), 2, ceil_mode=True) > 0
        return state.after(h, mask)

    def finish(self, state: State) -> EncoderOutput:
        """The MLP's vector and each step of the last map."""
        steps = self.dropout(F.relu(self.norm1(state.map))).transpose(1, 2)
        pooled = self.dropout(F.relu(self.norm2(self.mlp(steps.flatten(1)))))
        return EncoderOutput(pooled=pooled, tokens=self.token(steps), token_mask=state.valid, levels=state.done)


def _segments(bins: int) -> tuple[list[list[int]], list[list[int]]]:
    """The bins of every short and of every long segment, as many of each.

    Short ones have 12 bins, or what it takes to leave no bin out; long ones twice as many, at most half of all.
    """
    long = max(1, min(2 * max(SHORTEST, -(-bins // SEGMENTS)), bins // 2))
    count = min(SEGMENTS, bins - long + 1)
    return _spread(bins, -(-long // 2), count), _spread(bins, long, count)


def _spread(bins: int, length: int, count: int) -> list[list[int]]:
    starts = [round(i * (bins - length) / max(count - 1, 1)) for i in range(count)]
    return [list(range(start, start + length)) for start in starts]


@ENCODERS.register("hierarchical_series", kind="events", source="MedM2T, Hierarchical Time-Aware Fusion")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> HierarchicalSeries:
    """The encoder of an events modality whose fields are measured often."""
    sizes = PAPER if model.preset == "paper" else SMALL
    encoder = HierarchicalSeries(fields=len(plan.fields), bins=plan.bins, sizes=sizes, dropout=model.dropout)
    return loaded(encoder, weights)
