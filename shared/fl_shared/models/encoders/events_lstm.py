"""MedFuse's encoder of irregular events: two LSTM layers over the bins (Hayat et al. 2022).

A bin without a value repeats the last one before it, beside a flag that says whether it was observed. 868,352
parameters at 38 fields (76 inputs), as many as in the paper's layers. Its levels are the inputs and the two layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from fl_shared.models.encoders.events_cnn import carried_and_observed
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.recurrent import Lstm
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
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
        return State(map=carried_and_observed(inputs))

    def run_stage(self, index: int, state: State) -> State:
        """The inputs as they are (stage 0), then a layer each."""
        if index == 0:
            return state.after(state.map)
        return state.after(self.layers[index - 1](state.map.transpose(1, 2)).transpose(1, 2))

    def finish(self, state: State) -> EncoderOutput:
        """The last layer's states."""
        tokens = state.map.transpose(1, 2)
        pooled = self.dropout(tokens[:, -1])
        return EncoderOutput(pooled=pooled, tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


@ENCODERS.register("events_lstm", kind="events", source="Hayat et al. 2022 (MedFuse)")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> EventsLstm:
    """The encoder of an events modality; as wide as the model in the small preset."""
    width = PAPER_WIDTH if model.preset == "paper" else model.width
    return loaded(EventsLstm(fields=len(plan.fields), width=width, dropout=model.dropout), weights)
