"""Every encoder can be driven from outside, and what a fusion does to a map between two stages reaches the output."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from acceptance import Case, encoder_cases
from random_rows import random_rows
from torch import Tensor

from fl_shared.models.interface import EncoderOutput, StagedEncoder

Given = dict[str, Tensor]
every_encoder = pytest.mark.parametrize("case", encoder_cases(), ids=lambda case: case.name)


def prepared(case: Case) -> tuple[StagedEncoder, Given]:
    """The encoder, and rows that all have its modality."""
    study, model = case.quiet()
    encoder = model.eval().encoders["x"]
    assert isinstance(encoder, StagedEncoder)
    return encoder, dict(random_rows(study, 6, dtype=torch.float64, only=("x",)).inputs["x"])


@torch.no_grad()
def driven(encoder: StagedEncoder, given: Given, change: Callable[[int, Tensor], Tensor]) -> EncoderOutput:
    """As `forward`, with the map changed after each stage."""
    state = encoder.stem(given)
    for stage in range(len(encoder.stage_channels)):
        state = encoder.run_stage(stage, state)
        state = encoder.set_map(state, change(stage, encoder.get_map(state)[0]))
    return encoder.finish(state)


@every_encoder
def test_the_same_map_gives_the_same_output(case: Case) -> None:
    encoder, given = prepared(case)
    with torch.no_grad():
        whole = encoder(given)
    found = driven(encoder, given, lambda stage, features: features)
    assert torch.equal(found.pooled, whole.pooled)
    assert torch.equal(found.tokens, whole.tokens)
    assert torch.equal(found.token_mask, whole.token_mask)
    assert len(found.levels) == len(whole.levels) == 3
    assert all(torch.equal(a.map, b.map) for a, b in zip(found.levels, whole.levels, strict=True))


@every_encoder
def test_channels_scaled_after_a_stage_change_the_output(case: Case) -> None:
    """Not all by the same factor: a norm that follows would not see it."""
    encoder, given = prepared(case)
    with torch.no_grad():
        whole = encoder(given)
    for at in range(len(encoder.stage_channels)):

        def scaled(stage: int, features: Tensor, at: int = at) -> Tensor:
            channels = torch.linspace(0.1, 1.9, features.shape[1], dtype=features.dtype)
            return features * channels.view(-1, *[1] * (features.dim() - 2)) if stage == at else features

        found = driven(encoder, given, scaled)
        assert float((found.pooled - whole.pooled).abs().amax(1).min()) > 1e-4, at
        there = whole.token_mask[..., None]
        assert float((found.tokens - whole.tokens).where(there, 0.0).abs().amax((1, 2)).min()) > 1e-4, at
