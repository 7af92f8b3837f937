"""MedM2T's Sparse Time Series Encoder: measurements as tokens, cumulative windows, a BiLSTM (arXiv v2).

The paper cuts values at percentiles of patients' means; here the cuts are fixed places on the concept's own scale, so
that nothing is fitted. Published sizes of the BiLSTM: 3,153,920 parameters (E = 512), 790,528 (256), 198,656 (128).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.recurrent import Lstm
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

WINDOWS = 24  # at most; the paper's vital signs have as many
# Ten as in the paper. Outermost: just beyond the concept's range; so a concept of up to nine words has a bin a word.
CUTS = tuple(1.001 * (2 * k / 9 - 1) for k in range(10))
VALUES = len(CUTS) + 1
LAYERS = 2
SCALE = 50.0  # embeddings are drawn with a standard deviation of 0.02 here, of 1 in the paper


class BiLstm(nn.Module):
    """One layer of a bidirectional LSTM: x (B, T, 2 hidden) -> (B, T, 2 hidden)."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.ahead = Lstm(2 * hidden, hidden)
        self.back = Lstm(2 * hidden, hidden, reverse=True)

    def forward(self, x: Tensor) -> Tensor:
        """Both directions, side by side."""
        return torch.cat([self.ahead(x), self.back(x)], dim=2)


class WindowMlp(nn.Module):
    """x (B, T, E) -> (B, T, E), twice linear, norm, ReLU, dropout."""

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width)
        self.outer = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Every step by itself."""
        h = self.dropout(F.relu(self.norm1(self.inner(x))))
        found: Tensor = self.dropout(F.relu(self.norm2(self.outer(h))))
        return found


class SparseSeries(StagedEncoder):
    """``values`` and ``observed`` (B, bins, fields) -> a token a window; pooled is the last one's.

    Windows are equal parts of the bins, one each where there are at most 24. Their vectors go through a LayerNorm,
    which the paper has not: a mean over many tokens is small.

    Args:
        fields: items.
        bins: of the modality's window.
        width: E; made even.
        dropout: of the MLP.
    """

    def __init__(self, *, fields: int, bins: int, width: int, dropout: float) -> None:
        super().__init__()
        hidden = (width + 1) // 2
        self.width = 2 * hidden
        self.stage_channels = (self.width,) * (LAYERS + 1)
        windows = min(bins, WINDOWS)
        self.ends = [(i + 1) * bins // windows - 1 for i in range(windows)]  # last bin of each window
        self.values = nn.Embedding(fields * VALUES + 1, self.width)  # an item's bins of values; last: none
        self.sources = nn.Embedding(fields + 1, self.width)  # items; last: none
        self.norm = nn.LayerNorm(self.width)
        self.stages = nn.ModuleList([*(BiLstm(hidden) for _ in range(LAYERS)), WindowMlp(self.width, dropout=dropout)])

    def windows(self, values: Tensor, observed: Tensor) -> Tensor:
        """Mean of all tokens up to each window's end (B, W, E); the none token where there is no token yet.

        A token is the product of its value's and its item's embedding.
        """
        rows, bins, fields = observed.shape
        value_ids, source_ids = _ids(values, observed)
        value = SCALE * self.values(value_ids)
        source = SCALE * self.sources(source_ids)
        tokens = value[:, :-1].view(rows, bins, fields, -1) * source[:, None, :-1]
        count = observed.sum(2).cumsum(1)[:, self.ends, None]
        total = (tokens * observed[..., None].to(tokens.dtype)).sum(2).cumsum(1)[:, self.ends]
        return torch.where(count > 0, total / count.clamp(min=1), value[:, -1:] * source[:, -1:])

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """The windows' vectors (B, E, W)."""
        return State(map=self.norm(self.windows(inputs["values"], inputs["observed"])).transpose(1, 2))

    def run_stage(self, index: int, state: State) -> State:
        """A layer of the BiLSTM; at last the MLP."""
        return state.after(self.stages[index](state.map.transpose(1, 2)).transpose(1, 2))

    def finish(self, state: State) -> EncoderOutput:
        """A token a window; as in the paper, the last one has read all forwards, but only itself backwards."""
        tokens = state.map.transpose(1, 2)
        return EncoderOutput(pooled=tokens[:, -1], tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


def _ids(values: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Ids of values (B, bins fields + 1) and of items (B, fields + 1), none's last; of the unobserved, any."""
    rows, _, fields = observed.shape
    items = torch.arange(fields + 1, device=values.device)
    bins = torch.bucketize(torch.where(observed, values, 0.0), values.new_tensor(CUTS)) + VALUES * items[:-1]
    value_ids = F.pad(bins.flatten(1), (0, 1), value=VALUES * fields)
    return value_ids, items.expand(rows, -1).contiguous()


@ENCODERS.register("sparse_series", kind="events", source="MedM2T, Sparse Time Series Encoder")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> SparseSeries:
    """The encoder of an events modality; E is the model's width, the paper's dropout half of the fusion's."""
    encoder = SparseSeries(fields=len(plan.fields), bins=plan.bins, width=model.width, dropout=model.dropout / 2)
    return loaded(encoder, weights)
