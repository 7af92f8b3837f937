"""Models whose fusion acts inside encoders, and their encoders one patient at a time: for loops that are oracles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any, cast

import numpy as np
import torch
from acceptance import Case, of
from numpy.typing import NDArray
from torch import Tensor

from fl_shared.models.fusion.staged import StagedFusion
from fl_shared.models.interface import Batch, EncoderOutput, StagedEncoder, State, take
from fl_shared.models.model import MultimodalModel
from fl_shared.study import Study

Vector = NDArray[np.float64]
MODALITIES: Mapping[str, dict[str, Any]] = {
    "cine": {**of("cine", "cine_cnn"), "frames": 3, "size": 16},
    "ecg": of("waveform", "ecg_resnet"),
    "ehr": of("table", "ehr_mlp"),
    "image": of("image", "resnet34"),
    "series": of("events", "hierarchical_series"),
    "text": of("text", "text_bert"),
}
"""With masks over frames, segments and words; the image's encoder has four stages, the others three."""


def inside(
    fusion: str, names: Sequence[str], *, spread: bool = True, tasks: Mapping[str, Any] | None = None, **model: Any
) -> tuple[Study, MultimodalModel]:
    """A study with one task and its model in float64, in evaluation mode and without dropout.

    spread: what the fusion holds is drawn anew, so that nothing in it is 0 or small.
    """
    case = Case(
        name=fusion,
        modalities={name: MODALITIES[name] for name in names},
        tasks=tasks or {"death": {"type": "binary"}},
        model={"system": "baselines", "fusion": fusion, **model},
    )
    study, built = case.quiet()
    generator = torch.Generator().manual_seed(0)
    for parameter in built.fusion.parameters() if spread else ():
        torch.nn.init.normal_(parameter, std=0.4, generator=generator)
    return study, built.eval()


def encoders_of(model: MultimodalModel) -> dict[str, StagedEncoder]:
    return {name: cast(StagedEncoder, encoder) for name, encoder in model.encoders.items()}


def fusion_of(model: MultimodalModel) -> StagedFusion:
    return cast(StagedFusion, model.fusion.fusion)


@torch.no_grad()
def driven(model: MultimodalModel, batch: Batch) -> dict[str, EncoderOutput]:
    """What the fusion makes of the rows."""
    return model.fusion.encode(encoders_of(model), batch.inputs, batch.present)


def row_of(batch: Batch, row: int) -> tuple[dict[str, dict[str, Tensor]], dict[str, bool]]:
    """One row's inputs, and what it has."""
    one = take(batch, torch.tensor([row]))
    return {m: dict(x) for m, x in one.inputs.items()}, {m: bool(there) for m, there in one.present.items()}


def until(encoder: StagedEncoder, inputs: Mapping[str, Tensor], *, left: int) -> State:
    state = encoder.stem(inputs)
    for index in range(len(encoder.stage_channels) - left):
        state = encoder.run_stage(index, state)
    return state


def valid_places(state: State) -> list[tuple[int, ...]]:
    """Of a state of one row: indices of places that count. A mask may leave out trailing dimensions."""
    shape = state.map.shape[2:]
    mask = None if state.mask is None else state.mask[0].numpy()
    return [p for p in product(*map(range, shape)) if mask is None or mask[p[: mask.ndim]]]


def mean_over_places(state: State) -> Vector:
    values, places = state.map[0].numpy(), valid_places(state)
    total = np.zeros(len(values))
    for place in places:
        total += values[(slice(None), *place)]
    return total / max(len(places), 1)


def with_each_place(state: State, change: Callable[[Vector], Vector]) -> State:
    """Every valid place's channels changed; the others as they are."""
    values = state.map.clone().numpy()
    for place in valid_places(state):
        values[(0, slice(None), *place)] = change(values[(0, slice(None), *place)])
    return State(map=torch.from_numpy(values), mask=state.mask, done=state.done)


def weight(model: MultimodalModel, name: str) -> Vector:
    return model.state_dict()[f"fusion.fusion.{name}"].numpy()
