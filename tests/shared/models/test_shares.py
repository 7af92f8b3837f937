"""What part of a fusion's attention each modality gets: against a library's attention and loops over patients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fl_shared.models.fusion  # noqa: F401 - the package registers all
from fl_shared.models.interface import EncoderOutput, Fusion, FusionSpec
from fl_shared.models.registry import FUSIONS
from fl_shared.study import ModelPlan

NAMES = ("cine", "ehr", "text")
TOKENS = {"cine": 3, "ehr": 2, "text": 4}
THERE = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 0], [1, 1, 1], [1, 0, 0]]).bool()
WIDTH, HEADS = 8, 2
WEIGHING = ["modality_attention", "fixed_weights", "self_attention", "drfuse"]


def make(name: str, *, depth: int = 1) -> Fusion:
    shares = {"cine": 50.0, "ehr": 25.0, "text": 25.0} if name == "fixed_weights" else {}
    spec = FusionSpec(
        modalities=NAMES,
        widths=dict.fromkeys(NAMES, WIDTH),
        levels={m: (WIDTH,) * 3 for m in NAMES},
        tasks={"death": 1, "mace": 2},
        model=ModelPlan(width=WIDTH, heads=HEADS, depth=depth, dropout=0.2, shares=shares),
    )
    torch.manual_seed(0)
    fusion: Fusion = FUSIONS.get(name, key="model.fusion").build(spec).double().eval()
    with torch.no_grad():
        for p in fusion.parameters():
            p.add_(torch.randn(p.shape, dtype=p.dtype), alpha=0.5)  # far from even attention
    return fusion


def given(seed: int = 3) -> dict[str, EncoderOutput]:
    g, found = torch.Generator().manual_seed(seed), {}
    for m in NAMES:
        tokens = torch.randn(len(THERE), TOKENS[m], WIDTH, generator=g, dtype=torch.float64)
        mask = torch.rand(len(THERE), TOKENS[m], generator=g) < 0.7
        mask[:, 0] = True
        found[m] = EncoderOutput(pooled=tokens.mean(1), tokens=tokens, token_mask=mask)
    return found


def shares(fusion: Fusion, outputs: dict[str, EncoderOutput], there: Tensor = THERE) -> np.ndarray:
    """(B, M)."""
    with torch.no_grad():
        found = fusion.shares(outputs, dict(zip(NAMES, there.unbind(1), strict=True)))
    assert found is not None and tuple(found) == NAMES
    return torch.stack([*found.values()], dim=1).numpy()


def weights(layer: Any, queries: Tensor, tokens: Tensor) -> Tensor:
    """Of torch's own multi-head attention over one patient's valid tokens, mean over the heads (T, S)."""
    oracle = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True).double().eval()  # noqa: TID251
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key.weight, layer.value.weight]))
        oracle.in_proj_bias.copy_(torch.cat([layer.query.bias, torch.zeros(WIDTH), layer.value.bias]))
        found: Tensor = oracle(queries[None], tokens[None], tokens[None], need_weights=True)[1][0]
    return found


@pytest.mark.parametrize("name", WEIGHING)
def test_shares_of_a_row_add_up_to_one_and_hang_on_what_is_there_alone(name: str) -> None:
    fusion, outputs = make(name), given()
    found = shares(fusion, outputs)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-12)
    assert (found[~THERE.numpy()] == 0).all() and (found[THERE.numpy()] > 0).all()
    np.testing.assert_allclose(found[3], [0, 1, 0], atol=1e-12)
    spoilt = {}
    for k, m in enumerate(NAMES):
        gone = ~THERE[:, k]
        out = outputs[m]
        spoilt[m] = EncoderOutput(
            pooled=out.pooled.masked_fill(gone[:, None], 50.0),
            tokens=out.tokens.masked_fill((gone[:, None] | ~out.token_mask)[..., None], 50.0),
            token_mask=out.token_mask,
        )
    np.testing.assert_allclose(shares(fusion, spoilt), found, atol=1e-12)
    alone = {m: EncoderOutput(pooled=o.pooled[1:2], tokens=o.tokens[1:2], token_mask=o.token_mask[1:2])
             for m, o in outputs.items()}  # fmt: skip
    np.testing.assert_allclose(shares(fusion, alone, THERE[1:2])[0], found[1], atol=1e-12)


def test_between_modalities_it_is_the_mean_over_those_that_ask() -> None:
    fusion, outputs = make("modality_attention"), given()
    found = shares(fusion, outputs)
    for row, there in enumerate(THERE):
        tokens = torch.stack([outputs[m].pooled[row] for m in NAMES]) + fusion.marks.weight.detach()
        each = weights(fusion, tokens[there], tokens[there]).mean(0)
        np.testing.assert_allclose(found[row, there.numpy()], each.numpy(), atol=1e-12)
    assert np.ptp(found[[0, 4]], axis=0).max() > 1e-3  # not even


@pytest.mark.parametrize("depth", [1, 2])
def test_of_the_readout_it_is_what_falls_on_a_modalitys_tokens(depth: int) -> None:
    fusion, outputs = make("self_attention", depth=depth), given()
    found, marks = shares(fusion, outputs), fusion.marks.weight.detach()
    for row, there in enumerate(THERE):
        named = [k for k in range(3) if there[k]]
        pooled = torch.stack([outputs[NAMES[k]].pooled[row] for k in named]).mean(0)
        parts = [outputs[NAMES[k]].tokens[row][outputs[NAMES[k]].token_mask[row]] + marks[1 + k] for k in named]
        x = torch.cat([(marks[0] + pooled)[None], *parts])
        with torch.no_grad():
            for layer in fusion.layers[:-1]:
                x = layer(x[None], torch.ones(1, len(x), dtype=torch.bool), len(x))[0]
            h = fusion.layers[-1].norm1(x)
        each = weights(fusion.layers[-1], h[:1], h)[0, 1:]
        sums = torch.stack([part.sum() for part in each.split([len(part) for part in parts])])
        np.testing.assert_allclose(found[row, named], (sums / sums.sum()).numpy(), atol=1e-12)


def test_fixed_weights_are_their_own_shares() -> None:
    found = shares(make("fixed_weights"), given())
    np.testing.assert_allclose(found[:3], [[0.5, 0.25, 0.25], [2 / 3, 0, 1 / 3], [0, 0.5, 0.5]], atol=1e-12)


def test_drfuse_splits_what_is_shared_among_those_present() -> None:
    fusion, outputs = make("drfuse"), given()
    found = shares(fusion, outputs)

    def linear(layer: Any, x: np.ndarray) -> np.ndarray:
        bias = 0 if layer.bias is None else layer.bias.detach().numpy()
        return x @ layer.weight.detach().numpy().T + bias

    for row, there in enumerate(THERE):
        named = [m for m, k in zip(NAMES, there, strict=True) if k]
        pooled = {m: outputs[m].pooled[row].numpy() for m in named}
        sigmoids, distinct = [], []
        for m in named:
            x = linear(fusion.shared[m], pooled[m])
            for layer in (fusion.projector[0], fusion.projector[2]):
                x = np.maximum(linear(layer, x), 0)
            sigmoids.append(1 / (1 + np.exp(-linear(fusion.projector[4], x))))
            distinct.append(linear(fusion.distinct[m], pooled[m]))
        mean = np.mean(sigmoids, axis=0)
        parts = np.stack([np.log(mean / (1 - mean)), *distinct])
        query = linear(fusion.attention.query, parts).mean(0)
        keys = linear(fusion.attention.key, parts).reshape(len(parts), 3, WIDTH)
        scores = np.exp(np.einsum("d,kcd->ck", query, keys) / np.sqrt(WIDTH))
        each = (scores / scores.sum(1, keepdims=True)).mean(0)
        wanted = each[1:] + each[0] / len(named)
        np.testing.assert_allclose(found[row, there.numpy()], wanted, atol=1e-9)


def test_other_fusions_tell_none() -> None:
    for name in ("lstm", "concat", "co_attention"):
        assert FUSIONS.get(name, key="model.fusion") is not None
        fusion = make(name)
        assert fusion.shares(given(), dict(zip(NAMES, THERE.unbind(1), strict=True))) is None
