"""MedFuse's fusion: an LSTM reads one vector a modality (Hayat et al. 2022).

The present modalities are read in the study's order; an absent one is no step, so that the sequence is shorter. The
state is twice as wide as the vectors: 256 -> 512 with 1,576,960 parameters, as many as in the paper's layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fl_shared.models.interface import EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.recurrent import Lstm
from fl_shared.models.registry import FUSIONS


class LstmFusion(Fusion):
    """Pooled vectors of the present modalities -> fused (B, 2 d), the last state."""

    needs = frozenset({"pooled"})
    native_missing = True

    def __init__(self, *, modalities: Sequence[str], width: int) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.out_features = 2 * width
        self.lstm = Lstm(width, 2 * width)

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """Read the modalities that are there."""
        x = torch.stack([outputs[m].pooled for m in self.modalities], dim=1)
        mask = torch.stack([present[m] for m in self.modalities], dim=1)
        return FusionOutput(fused=self.lstm.last(self.lstm(x, mask)))


@FUSIONS.register("lstm", source="Hayat et al. 2022 (MedFuse)", native_missing=True)
def build(spec: FusionSpec) -> LstmFusion:
    """The fusion of the study's modalities."""
    return LstmFusion(modalities=spec.modalities, width=spec.model.width)
