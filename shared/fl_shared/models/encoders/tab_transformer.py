"""TabTransformer: words attend to one another, numbers join behind (Huang et al. 2020).

A word's token holds a vector of its field (an eighth) and one of the word itself. Numbers, scaled by their concepts'
ranges and with a flag each, stand beside every token, so that each level holds them. Then the paper's MLP of 4 l and
2 l units over tokens and numbers. 1.73 million parameters at 10 fields of words and 40 numbers, without the maps of
flags and tokens, which the paper has not: its numbers are never missing, and it has no tokens behind the MLP.

A table with fewer than two fields of words would leave nothing to attend to. There every field is a word: numbers as
one of eleven fixed parts of their concept's range. (A table of a single field has one token, whose attention is idle.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.categories import Categories, cuts_between_words
from fl_shared.models.encoders.sparse_series import CUTS
from fl_shared.models.encoders.token_blocks import BlockSizes, TokenBlock
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid, learned_tokens
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

STAGES = 3
OWN = 8  # this part of a token's width is its field's


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a block, blocks a stage, and the MLP's units; those of the paper, 4 l and 2 l of l inputs, when absent."""

    block: BlockSizes
    blocks: int
    units: tuple[int, int] | None = None


class ColumnTokens(nn.Module):
    """Ids of categories (B, W) -> a token a field (B, W, d): the field's vector, then the word's."""

    def __init__(self, *, fields: int, categories: int, width: int) -> None:
        super().__init__()
        self.columns = nn.Embedding(fields, width // OWN)
        self.words = nn.Embedding(categories, width - width // OWN)

    def forward(self, ids: Tensor) -> Tensor:
        """Both parts side by side."""
        return torch.cat([learned_tokens(self.columns, ids), self.words(ids)], dim=2)


class TabTransformer(StagedEncoder):
    """``values`` and ``observed`` (B, F) -> a token a field of words.

    A map has the tokens' channels, then the numbers and their flags, alike in all places.
    """

    words: Tensor
    numbers: Tensor

    def __init__(self, *, fields: Sequence[str], sizes: Sizes) -> None:
        super().__init__()
        cuts = [cuts_between_words(field) for field in fields]
        numbers = [place for place, each in enumerate(cuts) if not each]
        words = [place for place, each in enumerate(cuts) if each]
        if len(words) < 2:
            words, cuts = list(range(len(fields))), [each or CUTS for each in cuts]
        self.register_buffer("words", torch.tensor(words), persistent=False)
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64), persistent=False)
        self._parts = (sizes.block.width, len(numbers), len(numbers))
        self.stage_channels = (sum(self._parts),) * STAGES
        self.categories = Categories([cuts[place] for place in words])
        self.tokens = ColumnTokens(fields=len(words), categories=self.categories.total, width=sizes.block.width)
        self.stages = nn.ModuleList(
            nn.Sequential(*(TokenBlock(sizes.block, gate=F.gelu) for _ in range(sizes.blocks))) for _ in range(STAGES)
        )
        inputs = sizes.block.width * len(words) + len(numbers)
        hidden, self.width = sizes.units or (4 * inputs, 2 * inputs)
        self.inner = nn.Linear(inputs, hidden)
        self.missing = nn.Linear(len(numbers), hidden, bias=False) if numbers else None
        self.dropout = nn.Dropout(sizes.block.dropout)
        self.outer = nn.Linear(hidden, self.width)
        self.token = nn.Linear(sum(self._parts), self.width)

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Tokens, numbers and flags (B, C, W); what stands in an unobserved place is not read."""
        observed = inputs["observed"]
        values = torch.where(observed, inputs["values"], 0.0)
        tokens = self.tokens(self.categories(values[:, self.words], observed[:, self.words]))
        numbers = torch.cat([values[:, self.numbers], (~observed[:, self.numbers]).to(values.dtype)], dim=1)
        return State(map=_beside(tokens, numbers[:, None].expand(-1, tokens.shape[1], -1)))

    def run_stage(self, index: int, state: State) -> State:
        """Its blocks, over the tokens alone."""
        tokens, numbers, missing = self._split(state)
        return state.after(_beside(self.stages[index](tokens), numbers, missing))

    def finish(self, state: State) -> EncoderOutput:
        """The MLP's vector; each token with the numbers beside it."""
        tokens, numbers, missing = self._split(state)
        h = self.inner(torch.cat([tokens.flatten(1), numbers.mean(1)], dim=1))
        if self.missing is not None:
            h = h + self.missing(missing.mean(1))
        pooled = F.relu(self.outer(self.dropout(F.relu(h))))
        each = self.token(state.map.transpose(1, 2))
        return EncoderOutput(pooled=pooled, tokens=each, token_mask=all_valid(each), levels=state.done)

    def _split(self, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, numbers and flags, (B, W, …) each."""
        tokens, numbers, missing = torch.split(state.map.transpose(1, 2), list(self._parts), dim=2)
        return tokens, numbers, missing


def _beside(*parts: Tensor) -> Tensor:
    """Parts (B, W, C) of a map as (B, C, W)."""
    return torch.cat(parts, dim=2).transpose(1, 2)


@ENCODERS.register("tab_transformer", kind="table", source="Huang et al. 2020 (TabTransformer); LeMoF")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> TabTransformer:
    """The encoder of a table modality; as wide as the model in the small preset."""
    paper = model.preset == "paper"
    block = BlockSizes(
        width=32 if paper else 16,
        heads=8 if paper else 2,
        head=16 if paper else 8,
        hidden=128 if paper else 32,
        attention_dropout=model.dropout,
        dropout=model.dropout,
    )
    units = None if paper else (2 * model.width, model.width)
    sizes = Sizes(block=block, blocks=2 if paper else 1, units=units)
    return loaded(TabTransformer(fields=plan.fields, sizes=sizes), weights)
