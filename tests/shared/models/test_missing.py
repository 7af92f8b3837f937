"""What stands in for an absent modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from torch import Tensor, nn

from fl_shared.models.build import build_model
from fl_shared.models.fusion.missing import MissingAdapter
from fl_shared.models.interface import Batch, EncoderOutput, Fusion, FusionOutput, FusionSpec, Level, take
from fl_shared.study import ModelPlan, Study

WIDTHS = {"a": 6, "b": 4}
LEVELS = {"a": (3, 5, 6), "b": (2, 4, 4)}


class Everything(Fusion):
    """Uses all that it is given, so that what is filled in can be read off."""

    needs = frozenset({"pooled", "tokens", "levels"})
    native_missing = False

    def __init__(self) -> None:
        super().__init__()
        self.out_features = 1
        self.seen: Mapping[str, EncoderOutput] = {}
        self.chosen: Mapping[str, EncoderOutput] = {}

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        self.seen = outputs
        rows = [
            (o.tokens * o.token_mask[..., None]).flatten(1).sum(1).tanh()
            + o.pooled.sum(1).sin()
            + sum(torch.stack([level.map.flatten(1).sum(1).cos() + level.vec.sum(1).sin() for level in o.levels]))
            for o in outputs.values()
        ]
        return FusionOutput(fused=sum(torch.stack(rows))[:, None])

    def choose(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> None:
        self.chosen = outputs


def spec(missing: str = "learned") -> FusionSpec:
    model = ModelPlan(width=8, missing=missing)
    return FusionSpec(modalities=("a", "b"), widths=WIDTHS, levels=LEVELS, tasks={"death": 1}, model=model)


def outputs(rows: int, there: Mapping[str, Tensor]) -> dict[str, EncoderOutput]:
    """As the model hands them over: absent rows 0 and masked. Modality a has maps with masks, b without."""
    g = torch.Generator().manual_seed(0)

    def draw(m: str, *shape: int) -> Tensor:
        x = torch.randn(rows, *shape, generator=g, dtype=torch.float64)
        return x * there[m].view(-1, *[1] * len(shape))

    def level(m: str, channels: int) -> Level:
        mask = (torch.rand(rows, 3, generator=g) < 0.5) & there[m][:, None] if m == "a" else None
        return Level(map=draw(m, channels, *((3,) if m == "a" else (2, 2))), mask=mask)

    return {
        m: EncoderOutput(
            pooled=draw(m, width),
            tokens=draw(m, 5, width),
            token_mask=there[m][:, None] & (torch.rand(rows, 5, generator=g) < 0.6),
            levels=tuple(level(m, c) for c in LEVELS[m]),
        )
        for m, width in WIDTHS.items()
    }


THERE = {"a": torch.tensor([True, False, True, True]), "b": torch.tensor([True, True, False, True])}


def filled(missing: str = "learned") -> tuple[MissingAdapter, Everything, dict[str, EncoderOutput]]:
    fusion = Everything()
    adapter = MissingAdapter(fusion, spec(missing)).double()
    given = outputs(4, THERE)
    adapter(given, THERE)
    return adapter, fusion, given


@pytest.mark.parametrize("missing", ["learned", "zeros"])
def test_present_rows_pass_unchanged_and_absent_ones_hold_one_token(missing: str) -> None:
    adapter, fusion, given = filled(missing)
    for m, there in THERE.items():
        seen, before = fusion.seen[m], given[m]
        assert torch.equal(seen.pooled[there], before.pooled[there])
        assert torch.equal(seen.tokens[there], before.tokens[there])
        assert torch.equal(seen.token_mask[there], before.token_mask[there])
        assert seen.token_mask[~there].sum(1).tolist() == [1]
        vector = adapter.vectors[m].weight[0] if missing == "learned" else torch.zeros(WIDTHS[m], dtype=torch.float64)
        assert torch.equal(seen.pooled[~there][0], vector)
        assert torch.equal(seen.tokens[~there][seen.token_mask[~there]][0], vector)
        for k, (now, was) in enumerate(zip(seen.levels, before.levels, strict=True)):
            zeros = torch.zeros(LEVELS[m][k], dtype=torch.float64)
            vector = adapter.levels[m][k].weight[0] if missing == "learned" else zeros
            assert torch.equal(now.map[there], was.map[there]) and torch.equal(now.vec[there], was.vec[there])
            torch.testing.assert_close(now.vec[~there][0], vector)
            assert all(torch.equal(place, vector) for place in now.map[~there][0].flatten(1).T)
            if now.mask is None or was.mask is None:
                assert now.mask is was.mask
            else:
                assert torch.equal(now.mask[there], was.mask[there]) and bool(now.mask[~there].all())


def test_zeros_have_nothing_to_learn_and_learned_vectors_one_a_place() -> None:
    assert list(filled("zeros")[0].parameters()) == []
    shapes = {name: tuple(p.shape) for name, p in filled()[0].named_parameters()}
    expected = {f"vectors.{m}.weight": (1, w) for m, w in WIDTHS.items()}
    expected |= {f"levels.{m}.{k}.weight": (1, c) for m, cs in LEVELS.items() for k, c in enumerate(cs)}
    assert shapes == expected


def test_only_what_the_fusion_reads_is_learned() -> None:
    class Levels(Everything):
        needs = frozenset({"levels"})

    class Pooled(Everything):
        needs = frozenset({"pooled"})

    assert not MissingAdapter(Levels(), spec()).vectors and MissingAdapter(Levels(), spec()).levels
    adapter = MissingAdapter(Pooled(), spec()).double()
    assert adapter.vectors and not adapter.levels
    given = outputs(4, THERE)
    assert adapter._filled(given, THERE)["a"].levels is given["a"].levels


def test_it_stands_for_the_fusion() -> None:
    adapter, fusion, given = filled()
    assert adapter.native_missing
    mine, its = ((f.needs, f.predicts, f.out_features) for f in (adapter, fusion))
    assert mine == its == (frozenset({"pooled", "tokens", "levels"}), False, 1)
    adapter.choose(given, THERE)
    assert torch.equal(fusion.chosen["a"].pooled, fusion.seen["a"].pooled)


def test_ghost_norms_are_those_of_single_rows() -> None:
    adapter = MissingAdapter(Everything(), spec()).double()
    there = {m: torch.rand(9, generator=torch.Generator().manual_seed(k)) < 0.5 for k, m in enumerate(WIDTHS)}
    given = outputs(9, there)
    parameters = list(adapter.parameters())
    expected = []
    for row in torch.arange(9)[:, None]:
        loss = adapter(take(given, row), take(there, row)).fused.square().sum()
        expected.append(torch.stack([g.norm() for g in torch.autograd.grad(loss, parameters)]).norm())
    wrapped = GradSampleModuleFastGradientClipping(adapter, loss_reduction="sum", use_ghost_clipping=True)
    wrapped(given, there).fused.square().sum().backward()
    torch.testing.assert_close(wrapped.get_norm_sample(), torch.stack(expected), rtol=1e-9, atol=1e-12)
    whole = there["a"] & there["b"]
    assert bool((torch.stack(expected)[~whole] > 0).all()) and not bool(torch.stack(expected)[whole].any())


@pytest.mark.parametrize(("fusion", "wrapped"), [("concat", True), ("modality_attention", False)])
def test_the_model_wraps_what_cannot_do_without(
    plan: dict[str, object], rows: Callable[..., Batch], fusion: str, wrapped: bool
) -> None:
    system = "tte_alignment" if wrapped else "m_prtm"
    plan["modalities"] = {m: p for m, p in plan["modalities"].items() if m in ("ecg", "text")}  # type: ignore[attr-defined]
    plan["model"] = {"width": 16, "heads": 2, "system": system, "fusion": fusion}
    model = build_model(Study.model_validate(plan)).eval()
    assert isinstance(model.fusion, MissingAdapter) == wrapped
    if not wrapped:
        return
    assert all(isinstance(adapter, nn.Identity) for adapter in model.adapters.values())
    assert model.fusion.out_features == sum(e.width for e in model.encoders.values())
    batch = rows(6)
    batch.present["ecg"][:] = torch.tensor([True, False, True, False, True, True])
    batch.present["text"][:] = True
    with torch.no_grad():
        before = model(batch).logits["death"]
        model.fusion.vectors["ecg"].weight += 1.0
        changed = (model(batch).logits["death"] != before)[:, 0]
    assert torch.equal(changed, ~batch.present["ecg"])
