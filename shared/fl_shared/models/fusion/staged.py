"""What fusions that act inside encoders share: driving encoders stage by stage, and whom a row can hear.

A modality hears the others that are present. What an absent row's map holds reaches nobody: a learned vector stands in
for it where a third modality listens, and a modality that is alone is read as its encoder reads it by itself.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from fl_shared.models.fusion.concat import ConcatFusion
from fl_shared.models.interface import EncoderOutput, FusionSpec, Level, StagedEncoder, State
from fl_shared.models.tokens import learned_tokens

MAPS = ("cine", "events", "image", "waveform")  # kinds whose maps have places in space or time


class StagedFusion(ConcatFusion):
    """Runs the encoders itself; at last their pooled vectors stand side by side, as in joint fusion."""

    needs = frozenset({"stages", "pooled"})


class StandIns(nn.Module):
    """Vectors (B, C_m) of some modalities -> side by side (B, sum of C_m), absent ones replaced by a learned one.

    By zeros, if the study wants so (``model.missing``), and where nobody else could be heard in their place.

    Args:
        widths: modality -> C_m.
        spec: of the fusion.
        heard: modalities that can be heard together; with one, no vector is ever read.
    """

    def __init__(self, widths: Mapping[str, int], spec: FusionSpec, *, heard: int) -> None:
        super().__init__()
        learned = widths if spec.model.missing == "learned" and heard > 1 else {}
        self.vectors = nn.ModuleDict({m: nn.Embedding(1, width) for m, width in learned.items()})

    def forward(self, given: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> Tensor:
        """In the order of ``given``."""
        return torch.cat([self._filled(m, vector, present[m]) for m, vector in given.items()], dim=1)

    def _filled(self, modality: str, vector: Tensor, there: Tensor) -> Tensor:
        other = torch.zeros_like(vector)
        if modality in self.vectors:
            other = learned_tokens(cast(nn.Embedding, self.vectors[modality]), there)[:, 0]
        return torch.where(there[:, None], vector, other)


class HostedFusion(StagedFusion):
    """One modality is the host: what the others give, side by side, changes what its encoder does.

    Args:
        spec: of the fusion.
        host: the modality.
    """

    def __init__(self, spec: FusionSpec, *, host: str) -> None:
        super().__init__(spec)
        self.host = host
        own = {m: spec.own[m] for m in spec.modalities if m != host}
        self.conditioners = sum(own.values())
        if own:
            self.absent = StandIns(own, spec, heard=len(own))

    def encode(
        self,
        encoders: Mapping[str, StagedEncoder],
        inputs: Mapping[str, Mapping[str, Tensor]],
        present: Mapping[str, Tensor],
    ) -> dict[str, EncoderOutput]:
        """The others, then the host."""
        outputs = {m: encoders[m](inputs[m]) for m in self.modalities if m != self.host}
        given = self.absent({m: output.pooled for m, output in outputs.items()}, present) if outputs else None
        heard = hears(self.host, present)
        outputs[self.host] = self.hosted(encoders[self.host], inputs[self.host], given, heard)
        return {m: outputs[m] for m in self.modalities}

    @abstractmethod
    def hosted(
        self, host: StagedEncoder, inputs: Mapping[str, Tensor], given: Tensor | None, heard: Tensor
    ) -> EncoderOutput:
        """The host's encoder, changed by the others' vectors (B, N) in the rows that hear any (B,)."""


def begun(encoder: StagedEncoder, inputs: Mapping[str, Tensor], *, left: int) -> State:
    """Stem and all stages but the last ``left``."""
    state = encoder.stem(inputs)
    for index in range(len(encoder.stage_channels) - left):
        state = encoder.run_stage(index, state)
    return state


def stepped(encoder: StagedEncoder, state: State, *, left: int) -> State:
    """The first of the last ``left`` stages."""
    return encoder.run_stage(len(encoder.stage_channels) - left, state)


def feature_map(encoder: StagedEncoder, state: State) -> Level:
    """The map that the encoder is at, with its mask over all places (B, *S)."""
    found, mask = encoder.get_map(state)
    if mask is not None:  # some masks are of frames or steps only
        mask = mask.view(*mask.shape, *[1] * (found.dim() - 1 - mask.dim())).expand(len(found), *found.shape[2:])
    return Level(map=found, mask=mask)


def with_map(encoder: StagedEncoder, state: State, new_map: Tensor) -> State:
    """The state with another map; places that are masked stay as they are."""
    old = feature_map(encoder, state)
    if old.mask is not None:
        new_map = torch.where(old.mask[:, None], new_map, old.map)
    return encoder.set_map(state, new_map)


def over_places(vector: Tensor, places: Tensor) -> Tensor:
    """A vector (B, C) in the shape of a map (B, C, *S), for broadcasting."""
    return vector.view(*vector.shape, *[1] * (places.dim() - 2))


def hears(modality: str, present: Mapping[str, Tensor]) -> Tensor:
    """Rows (B,) that have another modality."""
    others = [there for name, there in present.items() if name != modality]
    return torch.stack([torch.zeros_like(present[modality]), *others]).any(0)


def host_of(spec: FusionSpec) -> str:
    """The modality that the others condition: ``model.guide``, else the first by name that has places."""
    first = next((m for m in spec.modalities if spec.kinds.get(m) in MAPS), spec.modalities[0])
    return spec.model.guide or first
