"""The fusions of cross-modal alignment: definitions in float64, published sizes, the contrastive loss."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.fusion import concat  # noqa: F401 - the package registers all
from fl_shared.models.fusion.contrastive import Temperature, info_nce
from fl_shared.models.interface import EncoderOutput, Fusion, FusionSpec
from fl_shared.models.registry import FUSIONS
from fl_shared.study import ModelPlan

PAPER = {"image": 1024, "ehr": 768}


def make(
    name: str, *modalities: str, width: int = 8, widths: Mapping[str, int] | None = None, **model: object
) -> Fusion:
    spec = FusionSpec(
        modalities=modalities,
        widths=widths or dict.fromkeys(modalities, width),
        levels={m: (4, 4, 4) for m in modalities},
        tasks={"death": 1},
        model=ModelPlan.model_validate({"width": width, "heads": 2, **model}),
    )
    return FUSIONS.get(name, key="model.fusion").build(spec).double()


def outputs(rows: int, *, width: int = 8, **tokens: int) -> tuple[dict[str, EncoderOutput], dict[str, Tensor]]:
    """Everything present; each modality with so many tokens, some masked, never the first."""
    g = torch.Generator().manual_seed(3)

    def one(count: int) -> EncoderOutput:
        mask = (torch.rand(rows, count, generator=g) < 0.6) | (torch.arange(count) == 0)
        pooled = torch.randn(rows, width, generator=g, dtype=torch.float64)
        x = torch.randn(rows, count, width, generator=g, dtype=torch.float64)
        return EncoderOutput(pooled=pooled, tokens=x, token_mask=mask)

    return {m: one(n) for m, n in tokens.items()}, {m: torch.ones(rows, dtype=torch.bool) for m in tokens}


def asked(pair: nn.Module, asks: EncoderOutput, answers: EncoderOutput, *, heads: int) -> Tensor:
    """torch's own multi-head attention with a zero key, then the mean over valid queries, row by row."""
    width = asks.pooled.shape[1]
    oracle = nn.MultiheadAttention(width, heads, bias=False, add_zero_attn=True, batch_first=True)  # noqa: TID251
    oracle = oracle.double().eval()
    with torch.no_grad():
        oracle.in_proj_weight.copy_(torch.cat([pair.query.weight, pair.key.weight, pair.value.weight]))
        oracle.out_proj.weight.copy_(torch.eye(width))
        rows = []
        for row in range(len(asks.pooled)):
            q = asks.tokens[row, asks.token_mask[row]][None]
            k = answers.tokens[row, answers.token_mask[row]][None]
            rows.append(oracle(q, k, k, need_weights=False)[0][0].mean(0))
    return torch.stack(rows)


def test_cross_attention_is_its_definition_for_every_ordered_pair() -> None:
    fusion = make("cross_attention", "a", "b", "c").eval()
    given, present = outputs(5, a=4, b=1, c=6)
    parts = []
    for m in "abc":
        parts.append(given[m].pooled)
        parts += [asked(fusion.pairs[m][n], given[m], given[n], heads=2) for n in "abc" if n != m]
    torch.testing.assert_close(fusion(given, present).fused, torch.cat(parts, dim=1))
    assert fusion.out_features == 9 * 8
    assert make("cross_attention", "a", "b").out_features == 4 * 8


@pytest.mark.parametrize(("guide", "order"), [(None, "abc"), ("c", "cab")])
def test_co_attention_is_its_definition(guide: str | None, order: str) -> None:
    fusion = make("co_attention", "a", "b", "c", guide=guide).eval()
    given, present = outputs(5, a=4, b=1, c=6)
    found = [asked(fusion.pairs[n], given[order[0]], given[n], heads=2) for n in order[1:]]
    torch.testing.assert_close(fusion(given, present).fused, torch.cat([given[order[0]].pooled, *found], dim=1))
    assert fusion.out_features == 3 * 8
    assert make("co_attention", "a", "b").out_features == 2 * 8


@pytest.mark.parametrize("name", ["cross_attention", "co_attention"])
def test_the_query_matters_when_the_other_has_one_token(name: str) -> None:
    fusion = make(name, "a", "b").eval()
    given, present = outputs(5, a=4, b=1)
    other = EncoderOutput(pooled=given["a"].pooled, tokens=given["a"].tokens + 1, token_mask=given["a"].token_mask)
    first, second = (fusion({**given, "a": a}, present).fused for a in (given["a"], other))
    changed = (first - second).abs().amax(0) > 1e-6
    assert torch.equal(changed[:16], torch.arange(16) >= 8)  # h_a stays, what a finds in b does not


@pytest.mark.parametrize("name", ["cross_attention", "co_attention"])
def test_masked_tokens_do_not_matter_and_a_modality_without_any_is_read_as_zero(name: str) -> None:
    fusion = make(name, "a", "b").eval()
    given, present = outputs(5, a=4, b=6)
    spoilt = {
        m: EncoderOutput(
            pooled=o.pooled, tokens=o.tokens.masked_fill(~o.token_mask[..., None], 1e6), token_mask=o.token_mask
        )
        for m, o in given.items()
    }
    assert torch.equal(fusion(spoilt, present).fused, fusion(given, present).fused)
    b = given["b"]
    empty = EncoderOutput(pooled=b.pooled, tokens=b.tokens, token_mask=torch.zeros_like(b.token_mask))
    assert not fusion({**given, "b": empty}, present).fused[:, 8:16].any()


def test_concat_is_as_wide_as_the_encoders_together() -> None:
    fusion = make("concat", "image", "ehr", widths=PAPER)
    assert fusion.out_features == 1792
    image, ehr = torch.randn(2, 1024).double(), torch.randn(2, 768).double()
    mask = torch.ones(2, 1, dtype=torch.bool)
    given = {
        m: EncoderOutput(pooled=x, tokens=x[:, None], token_mask=mask) for m, x in (("image", image), ("ehr", ehr))
    }
    assert torch.equal(fusion(given, dict.fromkeys(PAPER, mask[:, 0])).fused, torch.cat([image, ehr], dim=1))


@pytest.mark.parametrize(
    ("name", "width", "published", "exact"),
    [
        ("contrastive", 256, 459e3, 459_264 + 1),  # 1: the temperature
        ("contrastive", 512, 919e3, 918_528 + 1),
        ("cross_attention", 256, 852e3, 459_264 + 6 * 256**2),
        ("cross_attention", 512, 2.49e6, 918_528 + 6 * 512**2),
        ("co_attention", 256, 656e3, 459_264 + 3 * 256**2),
        ("co_attention", 512, 1.70e6, 918_528 + 3 * 512**2),
    ],
)
def test_published_sizes(name: str, width: int, published: float, exact: int) -> None:
    fusion = make(name, *PAPER, width=width, preset="paper", heads=4)
    projections = [nn.Linear(own, width) for own in PAPER.values()]
    assert sum(p.numel() for part in (fusion, *projections) for p in part.parameters()) == exact
    assert exact == pytest.approx(published, rel=0.01)


def naive_loss(a: Tensor, b: Tensor, both: Tensor, temperature: float) -> list[float]:
    rows = [i for i in range(len(both)) if both[i]]
    loss = [0.0] * len(both)
    for x, y in ((a, b), (b, a)):
        for i in rows:
            near = [math.exp(float(x[i] @ y[j]) / temperature) for j in rows]
            loss[i] -= math.log(near[rows.index(i)] / sum(near))
    return loss


def test_contrastive_loss_is_the_float64_loop_over_pairs_of_modalities() -> None:
    fusion = make("contrastive", "a", "b", "c")
    given, present = outputs(7, a=1, b=1, c=1)
    present = {
        "a": torch.tensor([True, True, True, True, False, True, True]),
        "b": torch.tensor([True, True, False, True, True, True, False]),
        "c": torch.tensor([False, True, True, True, True, False, False]),
    }
    unit = {m: o.pooled / o.pooled.square().sum(1, keepdim=True).sqrt() for m, o in given.items()}
    expected = torch.zeros(7, dtype=torch.float64)
    for m, n in (("a", "b"), ("a", "c"), ("b", "c")):
        expected += torch.tensor(naive_loss(unit[m], unit[n], present[m] & present[n], 0.07), dtype=torch.float64)
    found = fusion(given, present)
    torch.testing.assert_close(found.losses["contrastive"], expected, rtol=1e-6, atol=1e-9)  # 0.07 is a float32
    assert found.losses["contrastive"][6] == 0  # one modality only
    assert found.losses["contrastive"][:6].min() > 0
    aligned = [unit[m] * 8**0.5 * present[m][:, None] for m in "abc"]
    torch.testing.assert_close(found.fused, torch.cat(aligned, dim=1))


def test_aligned_pairs_have_the_closed_form() -> None:
    eye, temperature = torch.eye(6, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    both = torch.tensor([True] * 5 + [False])
    loss = info_nce(eye, eye, both, temperature)
    expected = 2 * math.log(1 + 4 * math.exp(-1 / 0.5))
    torch.testing.assert_close(loss, torch.tensor([expected] * 5 + [0.0], dtype=torch.float64))


@pytest.mark.parametrize("pairs", [0, 1])
def test_fewer_than_two_pairs_give_zero_with_a_graph(pairs: int) -> None:
    fusion = make("contrastive", "a", "b")
    given, present = outputs(4, a=1, b=1)
    given = {
        m: EncoderOutput(pooled=o.pooled.requires_grad_(), tokens=o.tokens, token_mask=o.token_mask)
        for m, o in given.items()
    }
    loss = fusion(given, {**present, "a": torch.arange(4) < pairs}).losses["contrastive"]
    assert loss.tolist() == [0.0] * 4
    leaves = [fusion.temperature.logit, *(o.pooled for o in given.values())]
    for gradient in torch.autograd.grad(loss.sum(), leaves):
        assert not gradient.any()


def test_gradients_of_vectors_and_temperature() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(5, 4, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    both = torch.tensor([True, True, False, True, True])
    logit = torch.tensor([-0.3], dtype=torch.float64, requires_grad=True)
    temperature = Temperature().double()

    def loss(a: Tensor, b: Tensor, logit: Tensor) -> Tensor:
        return info_nce(a, b, both, torch.func.functional_call(temperature, {"logit": logit}, ()))

    assert torch.autograd.gradcheck(loss, (a, b, logit))
    assert bool(torch.autograd.grad(loss(a, b, logit).sum(), logit)[0].abs() > 1e-3)


def test_the_temperature_starts_at_0_07_and_stays_between_its_bounds() -> None:
    temperature = Temperature()
    assert temperature().item() == pytest.approx(0.07, rel=1e-6)
    for far, bound in ((-50.0, 0.01), (50.0, 1.0)):
        nn.init.constant_(temperature.logit, far)
        assert temperature().item() == pytest.approx(bound, rel=1e-5)


def test_alignment_brings_pairs_together_and_strangers_apart() -> None:
    fusion = make("contrastive", "a", "b")
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(64, 6, generator=g, dtype=torch.float64)
    views = [hidden @ torch.randn(6, 12, generator=g, dtype=torch.float64) for _ in range(2)]
    maps = [nn.Linear(12, 8).double() for _ in range(2)]
    for linear in maps:
        with torch.no_grad():
            linear.weight.copy_(torch.randn(8, 12, generator=g) / 12**0.5)
    every = torch.ones(64, dtype=torch.bool)
    optimizer = torch.optim.Adam([*fusion.parameters(), *(p for m in maps for p in m.parameters())], lr=0.02)

    def right() -> float:
        a, b = (m(x) for m, x in zip(maps, views, strict=True))
        scores = nn.functional.normalize(a) @ nn.functional.normalize(b).T
        return float((scores.argmax(1) == torch.arange(64)).double().mean())

    before = right()
    for _ in range(150):
        mask = every[:, None]
        given = {
            m: EncoderOutput(pooled=linear(x), tokens=linear(x)[:, None], token_mask=mask)
            for m, linear, x in zip("ab", maps, views, strict=True)
        }
        optimizer.zero_grad()
        fusion(given, {"a": every, "b": every}).losses["contrastive"].mean().backward()
        optimizer.step()
    assert before < 0.2 and right() > 0.9


def test_an_absent_modality_is_zero_and_in_nobodys_loss() -> None:
    fusion = make("contrastive", "a", "b")
    given, present = outputs(5, a=1, b=1)
    present["a"] = torch.tensor([True, True, True, False, True])
    a = given["a"]
    other = EncoderOutput(pooled=a.pooled.clone(), tokens=a.tokens, token_mask=a.token_mask)
    other.pooled[3] = 1e6
    first, second = fusion(given, present), fusion({**given, "a": other}, present)
    assert torch.equal(first.fused, second.fused) and not first.fused[3, :8].any() and first.fused[3, 8:].all()
    assert torch.equal(first.losses["contrastive"], second.losses["contrastive"])
    assert first.losses["contrastive"][3] == 0


@pytest.mark.parametrize(
    ("name", "modalities", "model", "said"),
    [
        ("co_attention", ("a", "b"), {"guide": "c"}, r"model\.guide = c.*Known: a, b\."),
        ("contrastive", ("a",), {}, "no other to be aligned with"),
    ],
)
def test_what_cannot_be_built_is_said(
    name: str, modalities: tuple[str, ...], model: dict[str, object], said: str
) -> None:
    with pytest.raises(ConsiliumError, match=said) as caught:
        make(name, *modalities, **model)
    assert caught.value.code == ExitCode.STUDY


def test_only_the_contrastive_form_is_barred_from_privacy() -> None:
    barred = {
        e.name for e in FUSIONS if e.name in ("concat", "contrastive", "cross_attention", "co_attention") and not e.dp
    }
    assert barred == {"contrastive"}
