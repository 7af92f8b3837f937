"""TabTransformer: its formula one row at a time, numbers beside every level, and tables without words."""

from __future__ import annotations

from math import erf, sqrt

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fl_shared import concepts
from fl_shared.models.encoders.sparse_series import CUTS
from fl_shared.models.encoders.tab_transformer import TabTransformer, build
from fl_shared.models.encoders.token_blocks import TokenBlock
from fl_shared.study import ModalityPlan, ModelPlan

FIELDS = ("nyha", "age", "sex", "bmi", "lvef", "smoking")
WORDS, NUMBERS = (0, 2, 5), (1, 3, 4)
SIZES = (4, 2, 3)
TOKEN = 16
Array = NDArray[np.float64]


def encoder_of(*fields: str) -> TabTransformer:
    torch.manual_seed(0)
    plan = ModalityPlan(kind="table", fields=fields)
    encoder = build(plan, ModelPlan(width=12, heads=2, dropout=0.0), None).double()
    for p in encoder.parameters():
        nn.init.normal_(p, std=0.4)
    return encoder


@pytest.fixture
def encoder() -> TabTransformer:
    return encoder_of(*FIELDS)


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    values = torch.randn(6, len(FIELDS), dtype=torch.float64, generator=g)
    return {"values": values, "observed": torch.rand(6, len(FIELDS), generator=g) < 0.7}


def of(layer: nn.Module, x: Array) -> Array:
    """A linear map, or a LayerNorm, of rows."""
    weight, bias = (None if p is None else p.detach().numpy() for p in (layer.weight, layer.bias))
    if isinstance(layer, nn.LayerNorm):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + layer.eps) * weight + bias
    return x @ weight.T + (0 if bias is None else bias)


def block(layer: TokenBlock, x: Array) -> Array:
    """Attention head by head, then GEGLU."""
    a, h = layer.attention, of(layer.norm1, x)
    q, k, v = of(a.query, h), of(a.key, h), of(a.value, h)
    heads = []
    for part in np.split(np.arange(q.shape[1]), a.heads):
        scores = np.exp(q[:, part] @ k[:, part].T / sqrt(len(part)))
        heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
    x = x + of(a.out, np.concatenate(heads, axis=1))
    plain, gate = np.split(of(layer.inner, of(layer.norm2, x)), 2, axis=1)
    return x + of(layer.outer, plain * gate * np.vectorize(lambda t: (1 + erf(t / sqrt(2))) / 2)(gate))


def words_of(values: Array, observed: NDArray[np.bool_]) -> list[int]:
    """Numbers of the nearest words in one table; the last of a field is what is missing."""
    ids, first = [], 0
    for f, size in zip(WORDS, SIZES, strict=True):
        by = concepts.concept(FIELDS[f])
        codes = concepts.scale(np.array(sorted(by.codes.values())), by)
        ids.append(first + (int(np.abs(codes - values[f]).argmin()) if observed[f] else size))
        first += size + 1
    return ids


def test_levels_and_result_are_those_of_the_formula(encoder: TabTransformer, inputs: dict[str, Tensor]) -> None:
    out = encoder({**inputs, "values": torch.where(inputs["observed"], inputs["values"], float("nan"))})
    columns, words = (table.weight.detach().numpy() for table in (encoder.tokens.columns, encoder.tokens.words))
    assert columns.shape[1] + words.shape[1] == TOKEN
    for row, (values, observed) in enumerate(zip(inputs["values"].numpy(), inputs["observed"].numpy(), strict=True)):
        x = np.concatenate([columns, words[words_of(values, observed)]], axis=1)
        numbers = np.where(observed, values, 0)[list(NUMBERS)]
        missing = ~observed[list(NUMBERS)]
        beside = np.tile(np.concatenate([numbers, missing]), (3, 1))
        for stage, level in zip(encoder.stages, out.levels, strict=True):
            for layer in stage:
                x = block(layer, x)
            expected = torch.from_numpy(np.concatenate([x, beside], axis=1).T)
            torch.testing.assert_close(level.map[row], expected, rtol=1e-9, atol=1e-10)
        h = of(encoder.inner, np.concatenate([x.ravel(), numbers])[None]) + of(
            encoder.missing, missing[None].astype(float)
        )
        pooled = torch.from_numpy(np.maximum(of(encoder.outer, np.maximum(h, 0)), 0)[0])
        torch.testing.assert_close(out.pooled[row], pooled, rtol=1e-9, atol=1e-10)
    assert float(out.pooled.detach().amax(1).min()) > 0.1


def test_numbers_stand_beside_every_token_of_every_level(encoder: TabTransformer, inputs: dict[str, Tensor]) -> None:
    assert encoder.stage_channels == (TOKEN + 6,) * 3
    out = encoder(inputs)
    assert out.tokens.shape == (6, 3, 12)
    for level in out.levels:
        torch.testing.assert_close(
            level.vec[:, TOKEN : TOKEN + 3], torch.where(inputs["observed"], inputs["values"], 0)[:, NUMBERS]
        )


@pytest.mark.parametrize("channels", [slice(0, TOKEN), slice(TOKEN, TOKEN + 3), slice(TOKEN + 3, TOKEN + 6)])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_a_changed_map_reaches_the_result(
    encoder: TabTransformer, inputs: dict[str, Tensor], after: int, channels: slice
) -> None:
    def run(change: float) -> tuple[Tensor, Tensor]:
        state = encoder.stem(inputs)
        for stage in range(4):
            if stage == after:
                h = encoder.get_map(state)[0].clone()
                h[:, channels] += change
                state = encoder.set_map(state, h)
            state = encoder.run_stage(stage, state) if stage < 3 else state
        out = encoder.finish(state)
        return out.pooled, out.tokens

    for found, plain in zip(run(0.5), run(0.0), strict=True):
        assert bool(((found - plain).flatten(1).abs().amax(1) > 1e-4).all())


@pytest.mark.parametrize("fields", [("age", "bmi", "lvef"), ("age", "sex", "f0")])
def test_with_fewer_than_two_fields_of_words_all_are_words(fields: tuple[str, ...]) -> None:
    encoder = encoder_of(*fields)
    values = torch.tensor([[CUTS[3] + 0.01, 0.9, 0.2]]).double().expand(4, -1).clone()
    values[1, 0] += 0.1
    values[2, 0] -= 0.02
    observed = torch.ones(4, 3, dtype=torch.bool)
    observed[3, 0] = False
    tokens = encoder.stem({"values": values, "observed": observed}).map[:, :TOKEN]
    assert tokens.shape == (4, TOKEN, 3)
    assert torch.equal(tokens[0], tokens[1])
    other = (tokens != tokens[0]).any(1)
    assert other[2:].tolist() == [[True, False, False]] * 2
    assert torch.equal(tokens[2, : TOKEN // 8, 0], tokens[0, : TOKEN // 8, 0])  # its field's part
    assert not torch.equal(tokens[2], tokens[3])
    numbers = [f for f in fields if f != "sex"]
    assert encoder.stage_channels[0] == TOKEN + 2 * len(numbers)  # and their exact values beside


def test_a_table_of_words_alone_has_no_numbers() -> None:
    encoder = encoder_of("sex", "nyha")
    out = encoder({"values": torch.ones(3, 2).double(), "observed": torch.ones(3, 2, dtype=torch.bool)})
    assert encoder.missing is None
    assert [level.map.shape for level in out.levels] == [(3, TOKEN, 2)] * 3


def test_published_sizes() -> None:
    paper = build(ModalityPlan(kind="table", fields=FIELDS), ModelPlan(preset="paper"), None)
    inputs = 3 * 32 + 3
    assert (paper.inner.in_features, paper.inner.out_features, paper.width) == (inputs, 4 * inputs, 2 * inputs)
    assert [len(stage) for stage in paper.stages] == [2, 2, 2]
    assert {(b.attention.heads, b.attention.query.out_features) for stage in paper.stages for b in stage} == {(8, 128)}
