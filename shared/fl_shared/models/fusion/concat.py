"""Concatenation of the encoders' pooled vectors: the baseline of cross-modal alignment for time-to-event."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fl_shared.models.interface import EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.registry import FUSIONS


class ConcatFusion(Fusion):
    """Pooled vectors side by side, as wide as their encoders: fused (B, sum of widths), 1792 for 1024 and 768."""

    needs = frozenset({"pooled"})
    native_missing = False

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self.modalities = spec.modalities
        self.out_features = sum(spec.widths[m] for m in spec.modalities)

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """In the order of the study."""
        return FusionOutput(fused=torch.cat([outputs[m].pooled for m in self.modalities], dim=1))


@FUSIONS.register("concat", source="Cross-modal alignment for time-to-event", projects=False)
def build(spec: FusionSpec) -> ConcatFusion:
    """The fusion of the study's modalities."""
    return ConcatFusion(spec)
