"""M-PRTM's ablation: modalities weighed by set shares instead of attention (50, 25 and 25 %)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fl_shared.models.fusion.modality_attention import BLOCKS, ResidualBlock
from fl_shared.models.fusion.refused import refused
from fl_shared.models.interface import EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.registry import FUSIONS


class FixedWeightsFusion(Fusion):
    """Sum of pooled vectors by their shares, renormalised over those present, then blocks -> fused (B, d)."""

    needs = frozenset({"pooled"})
    native_missing = True

    def __init__(self, spec: FusionSpec, *, shares: Mapping[str, float]) -> None:
        super().__init__()
        width = spec.model.width
        self.modalities = spec.modalities
        self.out_features = width
        self._shares = [shares[m] for m in spec.modalities]
        self.blocks = nn.Sequential(*(ResidualBlock(width=width, dropout=spec.model.dropout) for _ in range(BLOCKS)))

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """Absent modalities have no share."""
        pooled = torch.stack([outputs[m].pooled for m in self.modalities], dim=1)
        return FusionOutput(fused=self.blocks((pooled * self._weights(pooled, present)[..., None]).sum(1)))

    def shares(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The weights of the sum."""
        weights = self._weights(outputs[self.modalities[0]].pooled, present)
        return dict(zip(self.modalities, weights.unbind(1), strict=True))

    def _weights(self, like: Tensor, present: Mapping[str, Tensor]) -> Tensor:
        """(B, M), of what is there."""
        there = torch.stack([present[m] for m in self.modalities], dim=1)
        weights = like.new_tensor(self._shares) * there
        return weights / weights.sum(1, keepdim=True)


@FUSIONS.register("fixed_weights", source="M-PRTM, ablation with fixed weights", native_missing=True)
def build(spec: FusionSpec) -> FixedWeightsFusion:
    """The fusion of the study's modalities; equal shares when ``model.shares`` is empty.

    Raises:
        ConsiliumError: ``model.shares`` names an unknown modality, or gives one no positive share: a row that has only
            this one could not be predicted (exit code 10).
    """
    shares = spec.model.shares or dict.fromkeys(spec.modalities, 1.0)
    for name in shares:
        if name not in spec.modalities:
            mend = f"Known: {', '.join(spec.modalities)}."
            raise refused(f"shares.{name}", value=f"{shares[name]:g}", problem="no modality of this name", mend=mend)
    for name in spec.modalities:
        if not 0 < (share := shares.get(name, 0.0)) < float("inf"):
            mend = "Give every modality a share above 0."
            raise refused(f"shares.{name}", value=f"{share:g}", problem="no share of the sum", mend=mend)
    return FixedWeightsFusion(spec, shares=shares)
