"""Pairwise cross-attention between the tokens of modalities (cross-modal alignment for time-to-event).

The paper averages an image's slices to one vector and so attends to a single key, which ignores the query. Here the
tokens are kept, and an encoder with only one is met by `PairAttention`'s zero key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from fl_shared.models.attention import PairAttention
from fl_shared.models.interface import EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.registry import FUSIONS


class CrossAttentionFusion(Fusion):
    """Each modality's pooled vector h_m, then what its tokens find in each other modality's, A_m<-n.

    fused (B, M * M * d): h_a, A_a<-b, h_b, A_b<-a for two. Each ordered pair has maps of its own.
    """

    needs = frozenset({"pooled", "tokens"})
    native_missing = False

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        width, heads = spec.model.width, spec.model.heads
        self.modalities = spec.modalities
        self.out_features = len(spec.modalities) ** 2 * width
        self.pairs = nn.ModuleDict(
            {
                m: nn.ModuleDict({n: PairAttention(width=width, heads=heads) for n in self._others(m)})
                for m in spec.modalities
            }
        )

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """In the order of the study."""
        parts = []
        for m in self.modalities:
            own = outputs[m]
            parts.append(own.pooled)
            for n, pair in cast(nn.ModuleDict, self.pairs[m]).items():
                parts.append(pair(own.tokens, own.token_mask, outputs[n].tokens, outputs[n].token_mask))
        return FusionOutput(fused=torch.cat(parts, dim=1))

    def _others(self, modality: str) -> tuple[str, ...]:
        return tuple(m for m in self.modalities if m != modality)


@FUSIONS.register("cross_attention", source="Cross-modal alignment for time-to-event, cross-attention")
def build(spec: FusionSpec) -> CrossAttentionFusion:
    """The fusion of the study's modalities."""
    return CrossAttentionFusion(spec)
