"""M-PRTM's fusion: self-attention over one vector a modality.

Every modality's pooled vector gives a query, a key and a value; two residual blocks follow (the paper's figure), and
the mean over the modalities that are present. Heads, depth and norms are unstated there. Ours: one layer,
``model.heads``, norms as below.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.attention import attend, attention
from fl_shared.models.interface import EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.registry import FUSIONS
from fl_shared.models.tokens import learned_tokens, token_mean

BLOCKS = 2


class ResidualBlock(nn.Module):
    """x (…, d) -> x + MLP(LayerNorm(x)), as wide inside."""

    def __init__(self, *, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        found: Tensor = x + self.dropout(self.outer(F.relu(self.inner(self.norm(x)))))
        return found


class ModalityAttentionFusion(Fusion):
    """One token a modality -> fused (B, d).

    An absent modality is masked as a key and left out of the mean. In a row with one modality the softmax over its
    single key is 1: there is nothing else to weigh, and its own vector passes by the residual.
    """

    needs = frozenset({"pooled"})
    native_missing = True

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        width, self.heads = spec.model.width, spec.model.heads
        self.modalities = spec.modalities
        self.out_features = width
        self.marks = nn.Embedding(len(spec.modalities), width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # softmax ignores a key's bias: no gradient could reach it
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(spec.model.dropout)
        self.blocks = nn.Sequential(*(ResidualBlock(width=width, dropout=spec.model.dropout) for _ in range(BLOCKS)))

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """Attend, blocks, mean over the present modalities."""
        x, mask = self._tokens(outputs, present)
        found = attend(self.query(x), self.key(x), self.value(x), mask, heads=self.heads)
        x = self.norm(x + self.dropout(self.out(found)))
        return FusionOutput(fused=token_mean(self.blocks(x), mask))

    def shares(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Attention that each modality gets: mean over the heads and over the present modalities that ask.

        The paper tells an allocation (about 55, 30 and 15 %) without saying of what; ours is this one. What passes by
        the residual is not in it.
        """
        x, mask = self._tokens(outputs, present)
        weights = token_mean(attention(self.query(x), self.key(x), mask, heads=self.heads), mask)
        return dict(zip(self.modalities, weights.unbind(1), strict=True))

    def _tokens(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(B, M, d) and which of them are there (B, M)."""
        mask = torch.stack([present[m] for m in self.modalities], dim=1)
        return torch.stack([outputs[m].pooled for m in self.modalities], dim=1) + learned_tokens(self.marks, mask), mask


@FUSIONS.register("modality_attention", source="M-PRTM, self-attention over modalities", native_missing=True)
def build(spec: FusionSpec) -> ModalityAttentionFusion:
    """The fusion of the study's modalities."""
    return ModalityAttentionFusion(spec)
