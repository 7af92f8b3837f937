"""Cached vectors go through untouched: their tokens, their mean, the width that concatenation publishes."""

from __future__ import annotations

import numpy as np
import torch

from fl_shared.models.build import build_model, groups
from fl_shared.models.encoders.embedding import Embedding
from fl_shared.models.interface import Batch
from fl_shared.study import Study

Plan = dict[str, object]
ROWS, VECTORS, FEATURES = 4, 5, 6


def inputs() -> dict[str, torch.Tensor]:
    """Rows with five, two, one and no valid vectors; what is masked is no number."""
    torch.manual_seed(0)
    mask = torch.arange(VECTORS) < torch.tensor([5, 2, 1, 0])[:, None]
    vectors = torch.where(mask[:, :, None], torch.randn(ROWS, VECTORS, FEATURES), torch.nan)
    return {"vectors": vectors, "mask": mask}


def test_tokens_are_the_vectors_and_pooled_is_the_mean_of_the_valid_ones() -> None:
    given, out = inputs(), Embedding(features=FEATURES)(inputs())
    assert torch.equal(out.token_mask, given["mask"])
    assert torch.equal(out.tokens, given["vectors"].nan_to_num(0.0))
    for row, valid in enumerate([5, 2, 1]):
        expected = given["vectors"][row, :valid].double().numpy().mean(0)
        np.testing.assert_allclose(out.pooled[row].numpy(), expected, rtol=1e-5, atol=1e-6)
    assert not out.pooled[3].any()
    for level in out.levels:
        assert torch.equal(level.map, out.tokens.transpose(1, 2))
        assert torch.equal(level.vec, out.pooled)


def test_a_stage_between_may_change_what_comes_out() -> None:
    encoder = Embedding(features=FEATURES)
    state = encoder.stem(inputs())
    state = encoder.run_stage(0, encoder.set_map(state, 2 * state.map))
    for index in (1, 2):
        state = encoder.run_stage(index, state)
    torch.testing.assert_close(encoder.finish(state).pooled, 2 * encoder(inputs()).pooled)


def test_concatenation_gets_1792_raw_numbers_and_trains_without_an_encoder(plan: Plan) -> None:
    plan |= {
        "modalities": {
            "ct": {"kind": "embedding", "features": 1024, "vectors": 3},
            "record": {"kind": "embedding", "features": 768, "vectors": 2},
        },
        "tasks": {"death": {"type": "binary"}},
        "model": {"system": "tte_alignment", "fusion": "concat"},
        "training": {"rounds": 2, "steps": 1, "batch": 4},
    }
    model = build_model(Study.model_validate(plan))
    assert model.constant_encoders() == ("ct", "record")
    assert {group.partition(".")[0] for group in groups(model)} <= {"fusion", "heads"}
    vectors = {"ct": torch.randn(2, 3, 1024), "record": torch.randn(2, 2, 768)}
    there = torch.ones(2, dtype=torch.bool)
    batch = Batch(
        inputs={m: {"vectors": v, "mask": torch.ones(v.shape[:2], dtype=torch.bool)} for m, v in vectors.items()},
        present={m: there for m in vectors},
        targets={"death": torch.ones(2, 1)},
        target_mask={"death": there[:, None]},
        index=torch.arange(2),
    )
    outputs = {m: model.encode(m, batch) for m in vectors}
    fused = model.fusion(outputs, batch.present).fused
    torch.testing.assert_close(fused, torch.cat([v.mean(1) for v in vectors.values()], dim=1))
    assert fused.shape[1] == 1792
    model.losses(model(batch), batch).sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in model.heads.parameters())
