"""Masked self-attention over the tokens of all modalities.

Pre-norm transformer layers (Vaswani et al. 2017; Xiong et al. 2020) written as Linear + scaled_dot_product_attention
and read out by one query, as in M-PRTM's fusion; an absent modality is masked as a key. The query starts as the
mean of the present modalities' pooled vectors, so that the untrained fusion already is a late average of them: small
cohorts have no patients to spare for learning that. For the same reason the heads read each modality's pooled vector
beside the readout: a linear path past the attention (Wide & Deep: Cheng et al. 2016, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.attention import attend, attention
from fl_shared.models.interface import EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.registry import FUSIONS
from fl_shared.models.tokens import learned_tokens


class AttentionLayer(nn.Module):
    """x (B, T, d) -> the first ``rows`` tokens after one layer."""

    def __init__(self, *, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)  # softmax ignores a key's bias: no gradient could reach it
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.inner = nn.Linear(width, 4 * width)
        self.outer = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, rows: int) -> Tensor:
        """Attend to the valid tokens; mask (B, T)."""
        h = self.norm1(x)
        h = attend(self.query(h[:, :rows]), self.key(h), self.value(h), mask, heads=self.heads)
        x = x[:, :rows] + self.dropout(self.out(h))
        found: Tensor = x + self.dropout(self.outer(F.gelu(self.inner(self.norm2(x)))))
        return found

    def attention(self, x: Tensor, mask: Tensor) -> Tensor:
        """Weights (B, 1, T) of the first token's attention, mean over the heads."""
        h = self.norm1(x)
        return attention(self.query(h[:, :1]), self.key(h), mask, heads=self.heads)


class SelfAttentionFusion(Fusion):
    """Readout token + tokens of the present modalities -> fused (B, (1 + M) d): readout, then the pooled vectors."""

    needs = frozenset({"pooled", "tokens"})
    native_missing = True

    def __init__(self, *, modalities: Sequence[str], width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.out_features = width * (1 + len(modalities))
        self.marks = nn.Embedding(1 + len(modalities), width)  # 0: the readout token; then one a modality
        self.layers = nn.ModuleList(AttentionLayer(width=width, heads=heads, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """The last layer computes only the readout row; an absent modality's place beside it is 0."""
        x, mask, beside = self._last(outputs, present)
        read = self.norm(self.layers[-1](x, mask, 1))
        return FusionOutput(fused=torch.cat([read, beside], dim=1).flatten(1))

    def shares(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Of the readout's attention in the last layer, mean over the heads, what falls on each modality's tokens; what
        it keeps for itself is left out. Below the last layer tokens have seen one another, and the heads read pooled
        vectors too: of a deep fusion these shares say less.
        """
        x, mask, _ = self._last(outputs, present)
        layer = cast(AttentionLayer, self.layers[-1])
        weights = layer.attention(x, mask)[:, 0, 1:]
        each = torch.split(weights, [outputs[m].tokens.shape[1] for m in self.modalities], dim=1)
        parts = torch.stack([part.sum(1) for part in each], dim=1)
        return dict(zip(self.modalities, (parts / parts.sum(1, keepdim=True)).unbind(1), strict=True))

    def _last(
        self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What the last layer gets, readout first, (B, 1 + T, d) and its mask; the pooled vectors beside (B, M, d)."""
        first = present[self.modalities[0]]
        readout, marks = torch.split(learned_tokens(self.marks, first), [1, len(self.modalities)], dim=1)
        there = torch.stack([present[m] for m in self.modalities], dim=1).to(readout.dtype)[:, :, None]
        pooled = torch.stack([outputs[m].pooled for m in self.modalities], dim=1)
        readout = readout + ((pooled * there).sum(1) / there.sum(1))[:, None]
        tokens = [outputs[m].tokens + marks[:, n : n + 1] for n, m in enumerate(self.modalities)]
        masks = [outputs[m].token_mask & present[m][:, None] for m in self.modalities]
        x = torch.cat([readout, *tokens], dim=1)
        mask = torch.cat([torch.ones_like(first)[:, None], *masks], dim=1)
        for layer in self.layers[:-1]:
            x = layer(x, mask, x.shape[1])
        return x, mask, there * (pooled + marks)


@FUSIONS.register("self_attention", source="Vaswani et al. 2017; M-PRTM", native_missing=True)
def build(spec: FusionSpec) -> SelfAttentionFusion:
    """The fusion of the study's modalities."""
    model = spec.model
    return SelfAttentionFusion(
        modalities=spec.modalities, width=model.width, depth=model.depth, heads=model.heads, dropout=model.dropout
    )
