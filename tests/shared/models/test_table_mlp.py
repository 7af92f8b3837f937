"""The table MLP: the published count, a plain MLP's numbers, and tokens that are parts of its result."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fl_shared.models.encoders.table_mlp import TableMlp, build
from fl_shared.study import ModalityPlan, ModelPlan

FIELDS, WIDTH = 11, 12


@pytest.fixture
def encoder() -> TableMlp:
    torch.manual_seed(0)
    return TableMlp(fields=FIELDS, width=WIDTH, dropout=0.4).double().eval()


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    values = torch.randn(6, FIELDS, dtype=torch.float64, generator=g)
    return {"values": values, "observed": torch.rand(6, FIELDS, generator=g) < 0.7}


def plain(encoder: TableMlp, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, hidden units and result of the MLP as it is usually written."""
    x = torch.zeros(len(inputs["values"]), 2 * FIELDS, dtype=torch.float64)
    for f in range(FIELDS):
        there = inputs["observed"][:, f]
        x[there, 2 * f] = inputs["values"][there, f]
        x[there, 2 * f + 1] = 1.0
    hidden = (x @ encoder.hidden.weight.T + encoder.hidden.bias).clamp(min=0)
    return x, hidden, hidden @ encoder.out.weight.T + encoder.out.bias


def test_published_size() -> None:
    plan = ModalityPlan(kind="table", fields=tuple(f"f{i}" for i in range(20)))
    encoder = build(plan, ModelPlan(preset="paper", width=256, dropout=0.2), None)
    assert sum(p.numel() for p in encoder.parameters()) == 152_320
    assert encoder.width == 256
    dropout = next(m for m in encoder.modules() if isinstance(m, nn.Dropout))
    assert dropout.p == 0.2
    assert build(plan, ModelPlan(width=16), None).width == 16


def test_the_pooled_vector_is_the_plain_mlps(encoder: TableMlp, inputs: dict[str, Tensor]) -> None:
    out = encoder(inputs)
    found = (out.levels[0].vec, out.levels[1].vec, out.pooled)
    for one, expected in zip(found, plain(encoder, inputs), strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-12, atol=1e-13)
    for level in out.levels:
        torch.testing.assert_close(level.map.mean(-1), level.vec)


def test_dropout_silences_hidden_units_whole(encoder: TableMlp, inputs: dict[str, Tensor]) -> None:
    torch.manual_seed(3)
    hidden = encoder.train()(inputs).levels[1].vec
    _, expected, _ = plain(encoder, inputs)
    active = expected > 0
    kept = (hidden / expected)[active]
    torch.testing.assert_close(kept[kept > 0], torch.full_like(kept[kept > 0], 1 / 0.6))
    assert 0.2 < float((kept == 0).double().mean()) < 0.6


def test_a_token_is_what_its_hidden_units_add(encoder: TableMlp, inputs: dict[str, Tensor]) -> None:
    out = encoder(inputs)
    assert out.tokens.shape == (6, 8, WIDTH)
    assert bool(out.token_mask.all())
    torch.testing.assert_close(out.tokens.mean(1), out.pooled)
    _, hidden, _ = plain(encoder, inputs)
    for k in range(8):
        units = slice(3 * k, 3 * k + 3)  # 24 hidden units in 8 blocks
        expected = 8 * hidden[:, units] @ encoder.out.weight[:, units].T + encoder.out.bias
        torch.testing.assert_close(out.tokens[:, k], expected, rtol=1e-12, atol=1e-13)


def test_a_column_of_the_first_level_is_a_block_of_fields(encoder: TableMlp, inputs: dict[str, Tensor]) -> None:
    x, _, _ = plain(encoder, inputs)
    columns = encoder(inputs).levels[0].map
    assert columns.shape == (6, 2 * FIELDS, 8)
    blocks = [{f for f in range(FIELDS) if columns[:, 2 * f + 1, k].any()} for k in range(8)]
    assert sorted(f for block in blocks for f in block) == list(range(FIELDS))  # every field in one block
    assert all(1 <= len(block) <= 2 for block in blocks)
    torch.testing.assert_close(columns.sum(-1), 8 * x)


def test_few_fields_are_as_many_columns() -> None:
    encoder = TableMlp(fields=3, width=WIDTH, dropout=0.0)
    out = encoder({"values": torch.ones(2, 3), "observed": torch.ones(2, 3, dtype=torch.bool)})
    assert out.levels[0].map.shape == (2, 6, 3)
    assert out.tokens.shape == (2, 8, WIDTH)


def test_unobserved_values_do_not_matter(encoder: TableMlp, inputs: dict[str, Tensor]) -> None:
    garbage = torch.where(inputs["observed"], inputs["values"], float("nan"))
    assert torch.equal(encoder({**inputs, "values": garbage}).tokens, encoder(inputs).tokens)
    zero = {"values": torch.zeros(1, FIELDS).double(), "observed": torch.ones(1, FIELDS, dtype=torch.bool)}
    missing = {**zero, "observed": ~zero["observed"]}
    assert not torch.allclose(encoder(zero).pooled, encoder(missing).pooled)  # a measured 0 is not a missing one
