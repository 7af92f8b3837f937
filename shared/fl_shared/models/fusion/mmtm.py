"""Multimodal transfer module: what all modalities hold says which channels of each one count (Joze et al. 2020).

Section 3.1: squeeze each map to its mean over places, join, and excite each modality's channels by a gate. Placed after
the last two stages, as in the paper's deeper layers; MedFuse (Hayat et al. 2022) compares with one place at a time.

The gate is 2 sigmoid, as in the paper's equation; the authors' code (and MedFuse's port) have sigmoid alone. Doubled, a
gate is about 1 at the start, so that encoders begin as they would by themselves, and exactly 1 can stand for "nobody
else is there". For more than two modalities there is one excitation of all of them, for two it is the published one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.fusion.staged import (
    StagedFusion,
    StandIns,
    begun,
    feature_map,
    hears,
    over_places,
    stepped,
    with_map,
)
from fl_shared.models.interface import EncoderOutput, FusionSpec, StagedEncoder
from fl_shared.models.registry import FUSIONS

RATIO = 4  # by which the joint vector is narrower than twice the squeezes
EXCHANGES = 2


class Excitation(nn.Module):
    """Squeezes (B, C_m) of all modalities -> gates (B, C_m) in 0 to 2; 1 for a modality that is alone.

    102,880, 148,032, 262,912 and 590,976 parameters for 64, 128, 256 and 512 channels beside 256, as MedFuse's.
    """

    def __init__(self, channels: Mapping[str, int], spec: FusionSpec) -> None:
        super().__init__()
        total = sum(channels.values())
        hidden = 2 * total // RATIO
        self.absent = StandIns(channels, spec, heard=len(channels) - 1)
        self.joint = nn.Linear(total, hidden)
        self.gates = nn.ModuleDict({m: nn.Linear(hidden, c) for m, c in channels.items()})

    def forward(self, squeezed: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """One gate a modality."""
        joint = F.relu(self.joint(self.absent(squeezed, present)))
        gates = {m: 2 * torch.sigmoid(self.gates[m](joint)) for m in squeezed}
        return {m: torch.where(hears(m, present)[:, None], gate, 1.0) for m, gate in gates.items()}


class MmtmFusion(StagedFusion):
    """Gates after the last two stages of every encoder: fused (B, M * d). One modality alone has no gates."""

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__(spec)
        places = range(-EXCHANGES, 0) if len(spec.modalities) > 1 else ()
        self.exchanges = nn.ModuleList(
            Excitation({m: spec.levels[m][place] for m in spec.modalities}, spec) for place in places
        )

    def encode(
        self,
        encoders: Mapping[str, StagedEncoder],
        inputs: Mapping[str, Mapping[str, Tensor]],
        present: Mapping[str, Tensor],
    ) -> dict[str, EncoderOutput]:
        """The encoders side by side, counted from their last stages."""
        left = len(self.exchanges)
        states = {m: begun(encoders[m], inputs[m], left=left) for m in self.modalities}
        for done, exchange in enumerate(self.exchanges):
            states = {m: stepped(encoders[m], state, left=left - done) for m, state in states.items()}
            maps = {m: feature_map(encoders[m], state) for m, state in states.items()}
            gates = exchange({m: level.vec for m, level in maps.items()}, present)
            gated = {m: level.map * over_places(gates[m], level.map) for m, level in maps.items()}
            states = {m: with_map(encoders[m], state, gated[m]) for m, state in states.items()}
        return {m: encoders[m].finish(state) for m, state in states.items()}


@FUSIONS.register("mmtm", source="Joze et al. 2020 (MMTM); Hayat et al. 2022 (MedFuse), its baseline")
def build(spec: FusionSpec) -> MmtmFusion:
    """The fusion of the study's modalities."""
    return MmtmFusion(spec)
