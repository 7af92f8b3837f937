"""Dynamic affine feature map transform: the other modalities scale and shift one's channels (Poelsterl et al. 2021).

MedFuse (Hayat et al. 2022) has the image condition the time series; here ``model.guide`` names the host, else it is the
first by name with places in space or time. Its map is transformed before its last stage, as MedFuse does after the
first of two LSTM layers. The others' pooled vectors condition, so they run first.

Ours, since neither says: the scale is 1 + alpha and the last layer starts at 0, so that the host starts as it is by
itself; a host that nobody conditions stays so.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.fusion.staged import (
    HostedFusion,
    begun,
    feature_map,
    host_of,
    over_places,
    stepped,
    with_map,
)
from fl_shared.models.interface import EncoderOutput, FusionSpec, StagedEncoder
from fl_shared.models.registry import FUSIONS

TABULAR, SHRINK = 16, 7  # the bottleneck has (16 + conditioners' width) / 7 units in MedFuse


class Transform(nn.Module):
    """Squeezed host map (B, C) beside the conditioners (B, N) -> alpha and beta (B, C) each, 0 at the start.

    38,912 and 96,000 parameters for 256 channels conditioned by 256 and by 512 numbers, as MedFuse's.
    """

    def __init__(self, *, channels: int, conditioners: int) -> None:
        super().__init__()
        hidden = (TABULAR + conditioners) // SHRINK
        self.bottleneck = nn.Linear(channels + conditioners, hidden, bias=False)
        self.affine = nn.Linear(hidden, 2 * channels, bias=False)
        vars(self.affine)["initial"] = {"weight": 0.0}

    def forward(self, squeezed: Tensor, conditioners: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and beta."""
        alpha, beta = self.affine(F.relu(self.bottleneck(torch.cat([squeezed, conditioners], dim=1)))).chunk(2, dim=1)
        return alpha, beta


class DaftFusion(HostedFusion):
    """The host's map <- (1 + alpha) map + beta before its last stage: fused (B, M * d)."""

    def __init__(self, spec: FusionSpec, *, host: str) -> None:
        super().__init__(spec, host=host)
        if self.conditioners:
            self.transform = Transform(channels=spec.levels[host][-2], conditioners=self.conditioners)

    def hosted(
        self, host: StagedEncoder, inputs: Mapping[str, Tensor], given: Tensor | None, heard: Tensor
    ) -> EncoderOutput:
        """Transformed before the last stage."""
        state = begun(host, inputs, left=1)
        if given is not None:
            level = feature_map(host, state)
            alpha, beta = (
                over_places(torch.where(heard[:, None], x, 0.0), level.map) for x in self.transform(level.vec, given)
            )
            state = with_map(host, state, (1 + alpha) * level.map + beta)
        return host.finish(stepped(host, state, left=1))


@FUSIONS.register("daft", source="Poelsterl et al. 2021 (DAFT); Hayat et al. 2022 (MedFuse), its baseline")
def build(spec: FusionSpec) -> DaftFusion:
    """The fusion of the study's modalities."""
    return DaftFusion(spec, host=host_of(spec))
