"""Temporal pointwise convolution over the bins of irregular events (Rocheteau et al. 2021).

Each field has temporal convolutions of its own, over the past alone, with holes that grow from layer to layer; beside
them a map across all fields at each step. What the latter finds are fields for the next layer, and every field keeps
what it was. Eight layers of the paper's setting for MIMIC-IV: 11 channels a field, kernel 5, 5 new fields a layer.

Ours: a LayerNorm over the channels of one step instead of norms over the batch (a GroupNorm over steps would let a step
see later ones); no static inputs, which are a modality of their own; of time only how much of the window has gone; and
a gap is as many bins long as the paper's is hours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.events_cnn import carry_forward
from fl_shared.models.interface import EncoderOutput, Level, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

FADES = 0.75  # of a carried value's weight, what is left with each further bin


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """channels: of a field's convolutions; new: fields that a layer finds; layers: up to each level; width: of tokens.

    The kernel spans bins, times the layer's dilation: 1 in the first, then the layer's number times (kernel - 1).
    """

    channels: int
    kernel: int
    new: int
    layers: tuple[int, int, int]
    width: int


PAPER = Sizes(channels=11, kernel=5, new=5, layers=(3, 6, 8), width=36)


class TpcLayer(nn.Module):
    """x (B, G C, T) of G fields, before its ReLU -> (B, (G + new) (1 + channels), T).

    Of a field: what it was, then its convolutions' channels; a new field has itself in every channel.

    Args:
        sizes: see there.
        first: number of fields F at the start; x has two channels each, a value and how fresh it is.
        index: number of the layer.
        dropout: of both paths.
    """

    def __init__(self, sizes: Sizes, *, first: int, index: int, dropout: float) -> None:
        super().__init__()
        fields = first + index * sizes.new
        outputs = fields * sizes.channels
        dilation = index * (sizes.kernel - 1) if index else 1
        self._fields, self._old = fields, first + (index - 1) * sizes.new if index else None
        self._inputs = 1 + sizes.channels if index else 2
        points = 0 if self._old is None else self._old * sizes.channels + sizes.new
        self._reach = (sizes.kernel - 1) * dilation
        self.conv = nn.Conv1d(fields * self._inputs, outputs, sizes.kernel, dilation=dilation, groups=fields)
        self.norm1 = nn.LayerNorm(outputs)
        self.point = nn.Linear(points + 2 * first + 1, sizes.new)
        self.norm2 = nn.LayerNorm(sizes.new)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, origin: Tensor) -> Tensor:
        """origin: the network's inputs (B, 2 F + 1, T), which the map across fields reads in every layer."""
        parts = torch.unflatten(x, 1, (self._fields, self._inputs))
        read = origin
        if self._old is not None:
            read = torch.cat([parts[:, : self._old, 1:].flatten(1, 2), parts[:, self._old :, 0], origin], dim=1)
            x = F.relu(x)
        own = self.dropout(self.norm1(self.conv(F.pad(x, (self._reach, 0))).transpose(1, 2)))
        new = self.dropout(self.norm2(self.point(read.transpose(1, 2))))
        kept = torch.cat([parts[:, :, :1], own.transpose(1, 2).unflatten(1, (self._fields, -1))], dim=2)
        found = new.transpose(1, 2)[:, :, None].expand(-1, -1, kept.shape[2], -1)
        return torch.cat([kept, found], dim=1).flatten(1, 2)


@dataclass(frozen=True, kw_only=True)
class Series(State):
    """origin: (B, 2 F + 1, bins), values, how fresh they are, and the share of the window that has gone."""

    origin: Tensor


class Tpc(StagedEncoder):
    """``values`` and ``observed`` (B, bins, fields) -> a token a bin; pooled is the last one's.

    A map (B, C, bins) holds the channels of the first field, then those of the next, before their ReLU.
    """

    def __init__(self, *, fields: int, sizes: Sizes, dropout: float) -> None:
        super().__init__()
        self.width = sizes.width
        self.stage_channels = tuple((fields + n * sizes.new) * (1 + sizes.channels) for n in sizes.layers)
        self.stages = nn.ModuleList(
            nn.ModuleList(TpcLayer(sizes, first=fields, index=i, dropout=dropout) for i in range(start, end))
            for start, end in zip((0, *sizes.layers), sizes.layers, strict=False)
        )
        self.out = nn.Linear(self.stage_channels[-1], sizes.width)
        self.norm = nn.LayerNorm(sizes.width)
        self.dropout = nn.Dropout(dropout)

    def stem(self, inputs: Mapping[str, Tensor]) -> Series:
        """A carried value and how fresh it is, field by field (B, 2 F, bins)."""
        values, fresh = (x.transpose(1, 2) for x in carried_and_fresh(inputs["values"], inputs["observed"]))
        gone = torch.linspace(0, 1, values.shape[2], device=values.device, dtype=values.dtype)
        origin = torch.cat([values, fresh, gone.expand(len(values), 1, -1)], dim=1)
        return Series(map=torch.stack([values, fresh], dim=2).flatten(1, 2), origin=origin)

    def run_stage(self, index: int, state: State) -> Series:
        """Its layers."""
        if not isinstance(state, Series):
            raise TypeError("TPC runs on the states that its stem gives")
        h = state.map
        for layer in cast(nn.ModuleList, self.stages[index]):
            h = layer(h, state.origin)
        return replace(state, map=h, done=(*state.done, Level(map=h)))

    def finish(self, state: State) -> EncoderOutput:
        """Each step by itself, as the paper's last map but one."""
        tokens = self.dropout(F.relu(self.norm(self.out(F.relu(state.map).transpose(1, 2)))))
        return EncoderOutput(pooled=tokens[:, -1], tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


def carried_and_fresh(values: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Values (B, bins, fields) carried forward, and how fresh each is: 1 where observed, then less with every bin.

    Both are 0 before the first observed value; what stands in an unobserved place is not read.
    """
    bins = torch.arange(values.shape[1], device=values.device)[None, :, None]
    last = torch.where(observed, bins, -1).cummax(dim=1).values
    return carry_forward(values, observed), torch.where(last >= 0, FADES ** (bins - last).to(values.dtype), 0.0)


@ENCODERS.register("tpc", kind="events", source="Rocheteau et al. 2021 (TPC); LeMoF")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> Tpc:
    """The encoder of an events modality; as wide as the model in the small preset."""
    small = Sizes(channels=4, kernel=5, new=4, layers=(1, 2, 3), width=model.width)
    sizes = PAPER if model.preset == "paper" else small
    return loaded(Tpc(fields=len(plan.fields), sizes=sizes, dropout=model.dropout), weights)
