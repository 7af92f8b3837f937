"""What encoders, fusions and heads give one another: batches, outputs, protocols.

Shapes: B patients (rows), T tokens, d model width, C labels or channels. Masks are True where valid. The patient
stays on dimension 0 of every parametrised layer, since per-patient gradients are taken there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn

Need = Literal["pooled", "tokens", "levels", "stages"]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One row a sample.

    inputs: modality -> named tensors, each (B, …). waveform: ``signal`` (B, leads, samples) mV and ``lead_mask``
        (B, leads); table: ``values`` (B, F) scaled by the concept's fixed range and ``observed`` (B, F) bool;
        text: ``ids`` (B, L) int64 and ``mask`` (B, L) bool. Rows of an absent modality are zero-filled.
    present: modality -> (B,) bool. At least one modality is present in every row.
    targets: task -> (B, C) float32; target_mask: task -> (B, C) bool (unlabelled is not negative).
    index: (B,) int64, patient number for grouping only.
    """

    inputs: Mapping[str, Mapping[str, Tensor]]
    present: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    target_mask: Mapping[str, Tensor]
    index: Tensor

    def __len__(self) -> int:
        return int(self.index.shape[0])

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(
            inputs={m: {k: v.to(device) for k, v in named.items()} for m, named in self.inputs.items()},
            present={m: v.to(device) for m, v in self.present.items()},
            targets={t: v.to(device) for t, v in self.targets.items()},
            target_mask={t: v.to(device) for t, v in self.target_mask.items()},
            index=self.index.to(device),
        )


@dataclass(frozen=True, kw_only=True)
class Level:
    """Features at one depth of an encoder: map (B, C_k, *S_k), vec (B, C_k), mask (B, *S_k) or None."""

    map: Tensor
    vec: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class EncoderOutput:
    """pooled (B, d), tokens (B, T, d), token_mask (B, T), three levels from low to high, auxiliary outputs."""

    pooled: Tensor
    tokens: Tensor
    token_mask: Tensor
    levels: tuple[Level, Level, Level]
    aux: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class FusionOutput:
    """fused (B, D); per_class (B, C, D) where a fusion gives one vector a label; auxiliary losses, logits, weights."""

    fused: Tensor
    per_class: Tensor | None = None
    aux_losses: Mapping[str, Tensor] = field(default_factory=dict)
    aux_logits: Mapping[str, Tensor] = field(default_factory=dict)
    weights: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class State:
    """What travels between an encoder's stages: the feature map (B, C, *S), its mask, and the finished stages."""

    map: Tensor
    mask: Tensor | None
    done: tuple[Level, ...] = ()


class StagedEncoder(nn.Module, ABC):
    """An encoder that can be driven stage by stage, so that a fusion may act inside it (MMTM, DAFT, HyperFusion).

    ``forward`` is stem -> all stages -> finish. `cond` carries per-sample generated weights.
    """

    stage_channels: tuple[int, ...]
    width: int

    @abstractmethod
    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Inputs of one modality -> first state."""

    @abstractmethod
    def run_stage(self, index: int, state: State, cond: Tensor | None = None) -> State:
        """Run stage ``index`` and append its `Level` to the state."""

    @abstractmethod
    def finish(self, state: State) -> EncoderOutput:
        """Last state -> output."""

    def get_map(self, state: State) -> tuple[Tensor, Tensor | None]:
        """The feature map, channels first, and its mask."""
        return state.map, state.mask

    def set_map(self, state: State, new_map: Tensor) -> State:
        """The state with another feature map."""
        return State(map=new_map, mask=state.mask, done=state.done)

    def forward(self, inputs: Mapping[str, Tensor]) -> EncoderOutput:
        """All stages in order."""
        state = self.stem(inputs)
        for index in range(len(self.stage_channels)):
            state = self.run_stage(index, state)
        return self.finish(state)


class Fusion(nn.Module, ABC):
    """Combines modalities; what it needs of the encoders is declared, so that one loop serves every fusion."""

    needs: ClassVar[frozenset[Need]]
    native_missing: ClassVar[bool]
    max_modalities: ClassVar[int | None] = None
    requires_anchor: ClassVar[str | None] = None
    n_phases: ClassVar[int] = 1
    out_features: int

    @abstractmethod
    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """Encoder outputs and presence -> fused vector."""


class Head(Protocol):
    """Turns the fused vector into a task's logits, losses and predictions."""

    def __call__(self, fused: FusionOutput) -> Tensor:
        """Logits (B, C)."""

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Per-row loss (B,): a row's loss never depends on another row."""

    def predict(self, logits: Tensor) -> Tensor:
        """Probabilities (B, C)."""
