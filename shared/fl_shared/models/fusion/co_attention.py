"""Guided co-attention: one modality asks, the others answer (cross-modal alignment for time-to-event)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fl_shared.models.attention import PairAttention
from fl_shared.models.fusion.refused import refused
from fl_shared.models.interface import EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.registry import FUSIONS


class CoAttentionFusion(Fusion):
    """The guide's pooled vector, then what its tokens find in each other modality's: fused (B, M * d), 2d for two.

    Of the other modalities only what the guide asks for comes through. Their single tokens: see `PairAttention`.
    """

    needs = frozenset({"pooled", "tokens"})
    native_missing = False

    def __init__(self, spec: FusionSpec, *, guide: str) -> None:
        super().__init__()
        width, heads = spec.model.width, spec.model.heads
        self.guide = guide
        self.out_features = len(spec.modalities) * width
        self.pairs = nn.ModuleDict({n: PairAttention(width=width, heads=heads) for n in spec.modalities if n != guide})

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """The others in the order of the study."""
        own = outputs[self.guide]
        found = [
            pair(own.tokens, own.token_mask, outputs[n].tokens, outputs[n].token_mask) for n, pair in self.pairs.items()
        ]
        return FusionOutput(fused=torch.cat([own.pooled, *found], dim=1))


@FUSIONS.register("co_attention", source="Cross-modal alignment for time-to-event, co-attention")
def build(spec: FusionSpec) -> CoAttentionFusion:
    """The fusion of the study's modalities.

    Raises:
        ConsiliumError: ``model.guide`` is no modality of the study (exit code 10).
    """
    guide = spec.model.guide or spec.modalities[0]
    if guide not in spec.modalities:
        mend = f"Known: {', '.join(spec.modalities)}."
        raise refused("guide", value=guide, problem="no modality of this name", mend=mend)
    return CoAttentionFusion(spec, guide=guide)
