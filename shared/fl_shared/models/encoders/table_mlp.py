"""The numeric MLP of M-PRTM, which MedM2T's static MLP resembles: Linear, ReLU, Dropout, Linear.

152,320 parameters at 20 fields (40 inputs: a value and a flag each), as in M-PRTM's layers. MedM2T normalises its
hidden layers over the batch; here nothing is normalised.

One vector would be a single key to an attention. So the tokens are what each block of hidden units adds to the result:
the second map reads one block at a time, and since it is linear, the mean of the tokens is the vector that the plain
MLP gives. The levels are spread the same way: inputs over blocks of fields, hidden units over blocks of units.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

TOKENS = 8
PAPER_WIDTH = 256


class TableMlp(StagedEncoder):
    """``values`` and ``observed`` (B, F) -> 8 tokens of width d, whose mean is the pooled vector."""

    def __init__(self, *, fields: int, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.stage_channels = (2 * fields, 2 * width, width)
        self.hidden = nn.Linear(2 * fields, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(2 * width, width)

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Values, each followed by its flag; what stands in an unobserved place is not read."""
        observed = inputs["observed"]
        values = torch.where(observed, inputs["values"], 0.0)
        pairs = torch.stack([values, observed.to(values.dtype)], dim=2)
        return State(map=spread(pairs))

    def run_stage(self, index: int, state: State) -> State:
        """The inputs as they are (stage 0), the hidden layer, the result."""
        h = state.map
        if index == 1:
            h = spread(self.dropout(F.relu(self.hidden(h.mean(-1))))[:, :, None])
        elif index == 2:
            h = self.out(h.transpose(1, 2)).transpose(1, 2)
        return state.after(h)

    def finish(self, state: State) -> EncoderOutput:
        """A token a block of hidden units."""
        tokens = state.map.transpose(1, 2)
        return EncoderOutput(pooled=tokens.mean(1), tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


def spread(parts: Tensor) -> Tensor:
    """Parts (B, N, size) in at most 8 blocks of neighbours -> (B, N size, blocks), whose mean is the parts.

    Column k holds the k-th block, times the number of blocks, and 0 elsewhere.
    """
    n, size = parts.shape[1:]
    blocks = min(TOKENS, n)
    block = (torch.arange(n, device=parts.device) * blocks // n).repeat_interleave(size)
    own = F.one_hot(block, blocks).to(parts.dtype)
    return parts.flatten(1)[:, :, None] * (blocks * own)


@ENCODERS.register("table_mlp", kind="table", source="M-PRTM; MedM2T (static data)")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> TableMlp:
    """The encoder of a table modality; as wide as the model in the small preset."""
    width = PAPER_WIDTH if model.preset == "paper" else model.width
    return loaded(TableMlp(fields=len(plan.fields), width=width, dropout=model.dropout), weights)
