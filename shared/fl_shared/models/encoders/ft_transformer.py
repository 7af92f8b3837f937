"""FT-Transformer: a token a field and a class token, three transformer blocks (Gorishniy et al. 2021, section 3.3).

A number is its value times a vector of its field, and another vector beside it; a word is a vector of its own. What is
missing is a learned vector of its field, which the paper has not. 0.919 million parameters at 40 numbers and 10 fields
of five words (without the vectors of what is missing), as in the authors' library, whose numbers the tests reproduce.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.encoders.categories import Categories, FieldScale, cuts_between_words
from fl_shared.models.encoders.token_blocks import BlockSizes, TokenBlock
from fl_shared.models.interface import EncoderOutput, StagedEncoder, State
from fl_shared.models.registry import ENCODERS
from fl_shared.models.tokens import all_valid, learned_tokens
from fl_shared.models.weights import loaded
from fl_shared.study import ModalityPlan, ModelPlan

STAGES = 3
PAPER = BlockSizes(width=192, heads=8, head=24, hidden=256, attention_dropout=0.2, dropout=0.1)


class FieldTokens(nn.Module):
    """``values`` and ``observed`` (B, F) -> a token a field (B, F, d)."""

    numbers: Tensor

    def __init__(self, fields: Sequence[str], *, width: int) -> None:
        super().__init__()
        cuts = [cuts_between_words(field) for field in fields]
        numbers = [place for place, each in enumerate(cuts) if not each]
        self.categories = Categories(cuts)
        self.table = nn.Embedding(self.categories.total, width)
        self.scale = FieldScale(len(numbers), width) if numbers else None
        self.register_buffer("numbers", torch.tensor(numbers, dtype=torch.int64), persistent=False)

    def forward(self, values: Tensor, observed: Tensor) -> Tensor:
        """What stands in an unobserved place is not read."""
        values = torch.where(observed, values, 0.0)
        tokens: Tensor = self.table(self.categories(values, observed))
        if self.scale is None:
            return tokens
        return tokens.index_add(1, self.numbers, self.scale(values.index_select(1, self.numbers)))


class FtTransformer(StagedEncoder):
    """``values`` and ``observed`` (B, F) -> 1 + F tokens of width d; pooled is the class token, which is the first."""

    def __init__(self, *, fields: Sequence[str], sizes: BlockSizes) -> None:
        super().__init__()
        self.width = sizes.width
        self.stage_channels = (sizes.width,) * STAGES
        self.fields = FieldTokens(fields, width=sizes.width)
        self.readout = nn.Embedding(1, sizes.width)
        self.stages = nn.ModuleList(TokenBlock(sizes, gate=F.relu, first=number == 0) for number in range(STAGES))
        self.norm = nn.LayerNorm(sizes.width)

    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """The tokens, the class token first (B, d, 1 + F)."""
        tokens = self.fields(inputs["values"], inputs["observed"])
        return State(map=torch.cat([learned_tokens(self.readout, tokens), tokens], dim=1).transpose(1, 2))

    def run_stage(self, index: int, state: State) -> State:
        """One block."""
        return state.after(self.stages[index](state.map.transpose(1, 2)).transpose(1, 2))

    def finish(self, state: State) -> EncoderOutput:
        """All tokens, normalised."""
        tokens = self.norm(state.map.transpose(1, 2))
        return EncoderOutput(pooled=tokens[:, 0], tokens=tokens, token_mask=all_valid(tokens), levels=state.done)


@ENCODERS.register("ft_transformer", kind="table", source="Gorishniy et al. 2021 (FT-Transformer); LeMoF")
def build(plan: ModalityPlan, model: ModelPlan, weights: Path | None) -> FtTransformer:
    """The encoder of a table modality; as wide as the model in the small preset."""
    small = BlockSizes(
        width=model.width,
        heads=model.heads,
        head=model.width // model.heads,
        hidden=4 * model.width // 3,
        attention_dropout=model.dropout,
        dropout=model.dropout,
    )
    sizes = PAPER if model.preset == "paper" else small
    return loaded(FtTransformer(fields=plan.fields, sizes=sizes), weights)
