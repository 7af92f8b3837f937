"""M-PRTM's fusion and its ablation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.fusion import fixed_weights  # noqa: F401 - the package registers all
from fl_shared.models.fusion.modality_attention import ResidualBlock
from fl_shared.models.interface import EncoderOutput, Fusion, FusionSpec
from fl_shared.models.registry import FUSIONS
from fl_shared.study import ModelPlan

MODALITIES = ("cine", "ehr", "text")
THERE = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 0], [1, 1, 1]]).bool()


def make(name: str, *, width: int = 8, heads: int = 2, shares: dict[str, float] | None = None) -> Fusion:
    model = ModelPlan(width=width, heads=heads, dropout=0.2, shares=shares or {})
    spec = FusionSpec(
        modalities=MODALITIES,
        widths=dict.fromkeys(MODALITIES, width),
        levels={m: (width,) * 3 for m in MODALITIES},
        tasks={"death": 1},
        model=model,
    )
    torch.manual_seed(0)
    return FUSIONS.get(name, key="model.fusion").build(spec).double().eval()


def given(x: Tensor) -> dict[str, EncoderOutput]:
    """x (B, M, d): one vector a modality."""
    valid = torch.ones(len(x), 1, dtype=torch.bool)
    pooled = dict(zip(MODALITIES, x.unbind(1), strict=True))
    return {m: EncoderOutput(pooled=v, tokens=v[:, None], token_mask=valid) for m, v in pooled.items()}


def present(there: Tensor) -> dict[str, Tensor]:
    return dict(zip(MODALITIES, there.unbind(1), strict=True))


def vectors(width: int = 8) -> Tensor:
    return torch.randn(len(THERE), 3, width, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def blocks(fusion: Fusion, x: Tensor) -> Tensor:
    for block in fusion.blocks:
        h = F.layer_norm(x, x.shape[-1:], block.norm.weight, block.norm.bias)
        x = x + (h @ block.inner.weight.T + block.inner.bias).clamp(min=0) @ block.outer.weight.T + block.outer.bias
    return x


def test_each_row_is_attention_over_its_present_modalities() -> None:
    """Against torch's own multi-head attention on the rows' present tokens alone: nothing is masked there."""
    fusion, x = make("modality_attention"), vectors()
    oracle = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()  # noqa: TID251
    found = fusion(given(x), present(THERE))
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([fusion.query.weight, fusion.key.weight, fusion.value.weight]))
        oracle.in_proj_bias.copy_(torch.cat([fusion.query.bias, torch.zeros(8), fusion.value.bias]))
        oracle.out_proj.load_state_dict(fusion.out.state_dict())
        for row, there in enumerate(THERE):
            tokens = (x[row] + fusion.marks.weight)[there][None]
            attended, _ = oracle(tokens, tokens, tokens)
            h = F.layer_norm(tokens + attended, (8,), fusion.norm.weight, fusion.norm.bias)
            torch.testing.assert_close(found.fused[row], blocks(fusion, h)[0].mean(0))


@pytest.mark.parametrize("name", ["modality_attention", "fixed_weights"])
def test_what_an_absent_modality_holds_does_not_matter(name: str) -> None:
    fusion, x = make(name), vectors()
    spoilt = x.masked_fill(~THERE[..., None], 1e6)
    first, second = (fusion(given(v), present(THERE)) for v in (x, spoilt))
    assert torch.equal(first.fused, second.fused)


def test_a_lone_modality_still_counts() -> None:
    fusion, x = make("modality_attention"), vectors()
    one = present(torch.tensor([False, True, False]).expand(5, 3))
    fused = fusion(given(x), one).fused
    assert torch.pdist(fused).min() > 1e-2  # five patients, five vectors


def test_published_sizes() -> None:
    fusion = make("modality_attention", width=256, heads=4)
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in fusion.named_children()}
    attention = count["query"] + count["key"] + count["value"] + count["out"]
    assert attention == 263_168 - 256  # a key's bias has no effect
    assert count["blocks"] == 264_192
    assert sum(p.numel() for p in make("fixed_weights", width=256).parameters()) == 264_192


@pytest.mark.parametrize(
    ("shares", "row", "expected"),
    [
        ({"text": 50, "cine": 25, "ehr": 25}, 0, [0.25, 0.25, 0.5]),
        ({"text": 50, "cine": 25, "ehr": 25}, 1, [1 / 3, 0, 2 / 3]),
        ({"text": 50, "cine": 25, "ehr": 25}, 3, [0, 1, 0]),
        ({}, 0, [1 / 3, 1 / 3, 1 / 3]),
        ({}, 2, [0, 0.5, 0.5]),
    ],
)
def test_fixed_weights_are_the_shares_of_those_present(
    shares: dict[str, float], row: int, expected: list[float]
) -> None:
    fusion, x = make("fixed_weights", shares=shares), vectors()
    found = fusion(given(x), present(THERE))
    weights = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.fused[row], blocks(fusion, weights @ x[row]))


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        (
            {"cine": 0.5, "ehr": 0.25, "notes": 0.25},
            r"model\.shares\.notes = 0\.25: no modality.*Known: cine, ehr, text\.",
        ),
        ({"cine": 0.5, "ehr": 0.5}, r"model\.shares\.text = 0: .*above 0"),
        ({"cine": 0.5, "ehr": 0.7, "text": -0.2}, r"model\.shares\.text = -0\.2: .*above 0"),
    ],
)
def test_shares_that_do_not_fit_are_refused(shares: dict[str, float], said: str) -> None:
    with pytest.raises(ConsiliumError, match=said) as caught:
        make("fixed_weights", shares=shares)
    assert caught.value.code == ExitCode.STUDY


def test_a_block_without_its_last_map_is_the_identity() -> None:
    block = ResidualBlock(width=4, dropout=0.0)
    nn.init.zeros_(block.outer.weight)
    nn.init.zeros_(block.outer.bias)
    x = torch.randn(3, 2, 4)
    assert torch.equal(block(x), x)
