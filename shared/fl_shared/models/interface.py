"""What encoders, fusions and heads give one another: batches, outputs, protocols.

Shapes: B patients (rows), T tokens, d model width, C labels or channels. Masks are True where valid. The patient
stays on dimension 0 of every parametrised layer, since per-patient gradients are taken there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import ClassVar, Literal, Protocol, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_shared.models.tokens import masked_mean
from fl_shared.study import ModelPlan

Need = Literal["pooled", "tokens", "levels", "stages"]


@dataclass(frozen=True, kw_only=True)
class Level:
    """Features at one depth of an encoder: map (B, C_k, *S_k), mask (B, *S_k) or None (all valid)."""

    map: Tensor
    mask: Tensor | None = None

    @property
    def vec(self) -> Tensor:
        """Mean of the map over its valid places (B, C_k)."""
        places = self.map.reshape(*self.map.shape[:2], -1)
        return places.mean(2) if self.mask is None else masked_mean(places, self.mask.reshape(len(places), 1, -1), 2)


@dataclass(frozen=True, kw_only=True)
class EncoderOutput:
    """pooled (B, d), tokens (B, T, d), token_mask (B, T), levels from low to high: three, or none if not asked for."""

    pooled: Tensor
    tokens: Tensor
    token_mask: Tensor
    levels: tuple[Level, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One row a sample.

    inputs: modality -> named tensors, each (B, …). waveform: ``signal`` (B, leads, samples) mV and ``lead_mask``
        (B, leads); table: ``values`` (B, F) scaled by the concept's fixed range and ``observed`` (B, F) bool;
        events: ``values`` and ``observed`` (B, bins, F); text: ``ids`` (B, L) int64 and ``mask`` (B, L) bool;
        cine: ``video`` (B, frames, slices, size, size), ``frame_mask``, ``slice_mask`` and ``spacing`` (B, 3) mm;
        image: ``pixels`` (B, 1, size, size) and ``spacing`` (B, 2) mm; embedding: ``vectors`` (B, V, features) and
        ``mask`` (B, V). Rows of an absent modality are zero-filled.
    present: modality -> (B,) bool. At least one modality is present in every row.
    targets: task -> (B, C) float32, C as `TaskPlan.names`; segmentation: (B, frames, slices, size, size) uint8, 0
        background, then the numbers of the labels. target_mask: task -> (B, C) bool (unlabelled is not negative);
        segmentation: (B, frames, slices), where someone drew.
    index: (B,) int64, patient number for grouping only.
    features: modality -> what its encoder (its parameters unchanged) gave for these rows: then it does not run.
    """

    inputs: Mapping[str, Mapping[str, Tensor]]
    present: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    target_mask: Mapping[str, Tensor]
    index: Tensor
    features: Mapping[str, EncoderOutput] = field(default_factory=dict)

    def __len__(self) -> int:
        return int(self.index.shape[0])


T = TypeVar("T")


def each_tensor(change: Callable[[Tensor], Tensor], part: T) -> T:
    """``part`` (tensors, mappings, tuples and dataclasses of them, None) with every tensor changed."""
    if isinstance(part, Tensor):
        return cast(T, change(part))
    if isinstance(part, Mapping):
        return cast(T, {key: each_tensor(change, value) for key, value in part.items()})
    if isinstance(part, tuple):
        return cast(T, tuple(each_tensor(change, value) for value in part))
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{f.name: each_tensor(change, getattr(part, f.name)) for f in fields(part)})
    return part


def take(part: T, rows: Tensor | NDArray[np.int64]) -> T:
    """Rows of a batch, of encoder outputs, of anything whose tensors have the rows on dimension 0."""
    return each_tensor(lambda x: x.index_select(0, torch.as_tensor(rows, device=x.device)), part)


@dataclass(frozen=True, kw_only=True)
class AuxLogits:
    """Another prediction of a task, trained by the loss of the task's head: logits (B, C), rows that count (B,)."""

    task: str
    logits: Tensor
    rows: Tensor


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Attention that is to be largest where a prediction errs least: attention and logits of K representations, each
    (B, C, K), and which of them a row has, valid (B, K).
    """

    task: str
    attention: Tensor
    logits: Tensor
    valid: Tensor


@dataclass(frozen=True, kw_only=True)
class FusionOutput:
    """What a fusion gives.

    fused: (B, D). per_class: task -> (B, C, D), where a fusion gives one vector an output. logits: task -> (B, C),
    where the fusion predicts itself (stacking, averages): the task's head then has no layer of its own. auxiliary:
    objective -> further predictions. losses: objective -> (B,), what each row adds. ranked: under objective 'tasks',
    attention that is trained by the targets (`fl_shared.models.ranking`).
    """

    fused: Tensor
    per_class: Mapping[str, Tensor] = field(default_factory=dict)
    logits: Mapping[str, Tensor] = field(default_factory=dict)
    auxiliary: Mapping[str, tuple[AuxLogits, ...]] = field(default_factory=dict)
    losses: Mapping[str, Tensor] = field(default_factory=dict)
    ranked: tuple[Ranked, ...] = ()

    def of(self, task: str) -> FusionOutput:
        """What a task's head reads: ``fused`` (B, D), or (B, C, D) where there is one vector an output."""
        return FusionOutput(fused=self.per_class.get(task, self.fused))


@dataclass(frozen=True, kw_only=True)
class State:
    """What travels between an encoder's stages: the feature map (B, C, *S), its mask, and the finished stages."""

    map: Tensor
    mask: Tensor | None = None
    done: tuple[Level, ...] = ()

    @property
    def valid(self) -> Tensor:
        """The mask of an encoder that always has one; said here for the type."""
        if self.mask is None:
            raise ValueError("this encoder needs a mask")
        return self.mask

    def after(self, new_map: Tensor, mask: Tensor | None = None) -> State:
        """The state after a stage: its map is the next level."""
        return State(map=new_map, mask=mask, done=(*self.done, Level(map=new_map, mask=mask)))


class StagedEncoder(nn.Module, ABC):
    """An encoder that can be driven stage by stage, so that a fusion may act inside it (MMTM, DAFT, HyperFusion).

    ``forward`` is stem -> all stages -> finish; the last three stages are the levels. ``decoder`` names what turns its
    levels' maps into a segmentation (cine).
    """

    decoder: ClassVar[str] = "pyramid"
    stage_channels: tuple[int, ...]
    width: int

    @abstractmethod
    def stem(self, inputs: Mapping[str, Tensor]) -> State:
        """Inputs of one modality -> first state."""

    @abstractmethod
    def run_stage(self, index: int, state: State) -> State:
        """Run stage ``index`` and append its `Level` to the state."""

    @abstractmethod
    def finish(self, state: State) -> EncoderOutput:
        """Last state -> output."""

    def get_map(self, state: State) -> tuple[Tensor, Tensor | None]:
        """The feature map, channels first, and its mask."""
        return state.map, state.mask

    def set_map(self, state: State, new_map: Tensor) -> State:
        """The state with another feature map."""
        return replace(state, map=new_map)

    def forward(self, inputs: Mapping[str, Tensor]) -> EncoderOutput:
        """All stages in order."""
        state = self.stem(inputs)
        for index in range(len(self.stage_channels)):
            state = self.run_stage(index, state)
        return self.finish(state)


@dataclass(frozen=True, kw_only=True)
class FusionSpec:
    """What a fusion is built for.

    modalities: in the order of the study; widths: modality -> width of pooled and tokens; levels: modality -> channels
    of its three levels; tasks: task -> numbers that its head gives (segmentations are not the fusion's); model: sizes;
    kinds: modality -> kind; own: modality -> width of its encoder's pooled vector, before any adapter; starts: task ->
    what its head adds to the logits of an untrained map, where it adds anything (`TaskHead.start`).
    """

    modalities: tuple[str, ...]
    widths: Mapping[str, int]
    levels: Mapping[str, tuple[int, ...]]
    tasks: Mapping[str, int]
    model: ModelPlan
    kinds: Mapping[str, str] = field(default_factory=dict)
    own: Mapping[str, int] = field(default_factory=dict)
    starts: Mapping[str, Tensor] = field(default_factory=dict)


class Fusion(nn.Module, ABC):
    """Combines modalities; what it needs of the encoders is declared, so that one loop serves every fusion.

    What an absent modality's outputs hold is 0 and masked. Without ``native_missing`` a learned vector stands in its
    place (`fl_shared.models.fusion.missing`). ``predicts``: gives logits itself, so that heads have no layer.
    """

    needs: frozenset[Need]
    native_missing: bool
    predicts: bool = False
    out_features: int

    @abstractmethod
    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """Encoder outputs and presence (B,) -> fused vector."""

    def encode(
        self,
        encoders: Mapping[str, StagedEncoder],
        inputs: Mapping[str, Mapping[str, Tensor]],
        present: Mapping[str, Tensor],
    ) -> dict[str, EncoderOutput]:
        """Run the encoders: each by itself, but of a fusion that needs ``stages``, which exchanges between them. Inputs
        of absent rows are 0; what is given for them must not hang on others' rows, nor reach another modality.
        """
        return {name: encoder(inputs[name]) for name, encoder in encoders.items()}

    def shares(
        self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor] | None:
        """Share (B,) of each modality, of a fusion that weighs them: 0 where it is absent, together 1. None: no shares
        are defined.
        """
        return None

    def choose(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> None:
        """Fill the buffers that a phase with objective 'choose' trains, from these rows. Most have none."""

    def kept(self, output: EncoderOutput, there: Tensor) -> EncoderOutput:
        """What is worth keeping of a constant encoder's output, of which this fusion makes the same: no more than
        `needs`; ``there``: (B,), rows that have the modality.
        """
        if "tokens" not in self.needs:
            output = replace(output, tokens=output.tokens[:, :0], token_mask=output.token_mask[:, :0])
        return output if "levels" in self.needs else replace(output, levels=())


class Head(Protocol):
    """Turns the fused vector into a task's logits, losses and predictions."""

    def __call__(self, fused: FusionOutput) -> Tensor:
        """Logits (B, `TaskPlan.outputs`)."""

    def loss(self, logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Per-row loss (B,), 0 where nothing is known: a row's loss never depends on another row (but Cox's)."""

    def predict(self, logits: Tensor) -> Tensor:
        """What is judged and shown, in float32.

        binary, multilabel: probabilities (B, C); multiclass: (B, classes); regression: (B, 1) in the target's unit;
        survival: risk of the event by each of `TaskPlan.edges` (B, bins), Cox: (B, 1) log relative hazard; competing:
        cumulative incidence of each cause by each edge (B, bins, causes); segmentation: labels (B, frames, slices,
        size, size) uint8.
        """
