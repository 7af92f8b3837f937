"""Table encoder: a token a field, mixed by MLPs.

Tokens as in FT-Transformer (Gorishniy et al. 2021, section 3.3), mixing across and within fields as in MLP-Mixer
(Tolstikhin et al. 2021, eq. 1). A missing value is a learned token of its field, never an imputed number.
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

STAGES = 3


class MixerBlock(nn.Module):
    """x (B, F, d) -> (B, F, d): first across fields, then within each."""

    def __init__(self, *, fields: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.across = nn.Linear(fields, fields)
        self.norm2 = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        x = x + self.dropout(self.across(self.norm1(x).transpose(1, 2))).transpose(1, 2)
        found: Tensor = x + self.dropout(self.outer(F.gelu(self.inner(self.norm2(x)))))
        return found


class EhrMlp(StagedEncoder):
    """``values`` (B, F) and ``observed`` (B, F) -> F tokens of width d."""

    def __init__(self, *, fields: int, width: int, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.stage_channels = (width,) * STAGES
        # A grouped 1x1 convolution is one Linear a field: value, observed (its bias) and missing (its token).
        self.tokens = nn.Conv1d(3 * fields, fields * width, 1, groups=fields, bias=False)
        self.stages = nn.ModuleList(MixerBlock(fields=fields, width=width, dropout=dropout) for _ in range(STAGES))
        self.norm = nn.LayerNorm(width)

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Values -> (B, d, F). What stands in an unobserved place is not read."""
        observed = inputs["observed"]
        values = torch.where(observed, inputs["values"], 0.0)
        seen = observed.to(values.dtype)
        parts = torch.stack([values, seen, 1 - seen], dim=2)
        batch, fields = observed.shape
        tokens = self.tokens(parts.reshape(batch, 3 * fields, 1))
        return State(map=tokens.reshape(batch, fields, self.width).transpose(1, 2))

    def run_stage(self, index: int, state: State) -> State:
        """One mixer block."""
        return state.after(self.stages[index](state.map.transpose(1, 2)).transpose(1, 2))

    def finish(self, state: State) -> EncoderOutput:
        """A token a field."""
        tokens = self.norm(state.map.transpose(1, 2))
        return EncoderOutput(pooled=tokens.mean(1), tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


@ENCODERS.register("ehr_mlp", kind="table", source="Gorishniy et al. 2021; Tolstikhin et al. 2021")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> EhrMlp:
    """The encoder of a table modality."""
    return loaded(EhrMlp(fields=len(plan.fields), width=model.width, dropout=model.dropout), weights)
