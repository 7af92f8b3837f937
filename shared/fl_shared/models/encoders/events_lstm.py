"""MedFuse's encoder of irregular events: two LSTM layers over the bins (Hayat et al. 2022: facts section 5.2).

A bin without a value repeats the last one before it, beside a flag that says whether it was observed. 868,352
parameters at 38 fields (76 inputs), as published. Its levels are the inputs and the two layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fl_shared.models.encoders.events_cnn import carry_forward
from fl_shared.models.interface import EncoderOutput, Level, StagedEncoder, State
from fl_shared.models.recurrent import Lstm
from fl_shared.models.registry import ENCODERS
from fl_shared.models.weights import load_into
from fl_shared.study import ModalityPlan, ModelPlan

PAPER_WIDTH = 256


class EventsLstm(StagedEncoder):
    """``values`` and ``observed`` (B, bins, fields) -> a token a bin, of width d; pooled: the last bin's.

    Dropout acts on the pooled vector only.
    """

    def __init__(self, *, fields: int, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.stage_channels = (2 * fields, width, width)
        self.layers = nn.ModuleList([Lstm(2 * fields, width), Lstm(width, width)])
        self.dropout = nn.Dropout(dropout)

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Values carried forward, and what was observed."""
        values, observed = inputs["values"], inputs["observed"]
        x = torch.cat([carry_forward(values, observed), observed.to(values.dtype)], dim=2)
        return State(map=x.transpose(1, 2), mask=None)

    def run_stage(self, index: int, state: State, cond: Tensor | None = None) -> State:
        """The inputs as they are (stage 0), then a layer each."""
        h = state.map
        if index > 0:
            h = self.layers[index - 1](h.transpose(1, 2)).transpose(1, 2)
        return State(map=h, mask=None, done=(*state.done, Level(map=h, vec=h.mean(-1))))

    def finish(self, state: State) -> EncoderOutput:
        """The last layer's states."""
        first, second, third = state.done
        tokens = state.map.transpose(1, 2)
        mask = tokens.new_ones(tokens.shape[:2]).bool()
        pooled = self.dropout(tokens[:, -1])
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=mask, levels=(first, second, third))


@ENCODERS.register("events_lstm", kind="events", source="Hayat et al. 2022, MedFuse: facts section 5.2")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> EventsLstm:
    """The encoder of an events modality; as wide as the model in the small preset."""
    width = PAPER_WIDTH if model.preset == "paper" else model.width
    encoder = EventsLstm(fields=len(plan.fields), width=width, dropout=model.dropout)
    if weights is not None:
        load_into(encoder, weights)
    return encoder
