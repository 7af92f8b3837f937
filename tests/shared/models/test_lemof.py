"""LeMoF: absence, cross-attention, stacking, and the choice of the best level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.fusion.level_guided import LevelGuidedFusion, build, build_first, build_second
from fl_shared.models.interface import Batch, EncoderOutput, FusionSpec, Level, each_tensor, take
from fl_shared.study import ModelPlan

Rows = Callable[..., Batch]
CHANNELS = {"a": (3, 4, 5), "b": (4, 6, 8)}
LENGTHS = (20, 10, 5)


def fusion_of(*, tasks: Mapping[str, int] | None = None, seed: int = 0, **model: Any) -> LevelGuidedFusion:
    """Two modalities of three sequence levels each."""
    torch.manual_seed(seed)
    plan = ModelPlan.model_validate({"system": "lemof", "width": 8, "heads": 2, "dropout": 0.0, **model})
    spec = FusionSpec(
        modalities=tuple(CHANNELS), widths={"a": 5, "b": 8}, levels=CHANNELS, tasks=tasks or {"t": 1}, model=plan
    )
    return build(spec).double().eval()


def outputs_of(rows: int, *, seed: int = 0) -> dict[str, EncoderOutput]:
    g = torch.Generator().manual_seed(seed)

    def level(channels: int, length: int) -> Level:
        x = torch.randn(rows, channels, length, generator=g, dtype=torch.float64)
        return Level(map=x, mask=torch.rand(rows, length, generator=g) < 0.8)

    empty = torch.zeros(rows, 1, dtype=torch.float64)
    return {
        m: EncoderOutput(
            pooled=empty,
            tokens=empty[:, None],
            token_mask=empty > 0,
            levels=tuple(level(c, n) for c, n in zip(channels, LENGTHS, strict=True)),
        )
        for m, channels in CHANNELS.items()
    }


def all_present(rows: int) -> dict[str, Tensor]:
    return dict.fromkeys(CHANNELS, torch.ones(rows, dtype=torch.bool))


# --- absence


def test_what_absent_rows_and_masked_positions_hold_does_not_matter() -> None:
    fusion, outputs = fusion_of(tasks={"t": 2}), outputs_of(6)
    present = {"a": torch.tensor([1, 1, 0, 0, 1, 1]).bool(), "b": torch.tensor([1, 0, 1, 1, 0, 1]).bool()}

    def spoilt(m: str, level: Level) -> Level:
        assert level.mask is not None
        x = level.map.masked_fill(~level.mask[:, None], torch.nan).masked_fill(~present[m][:, None, None], torch.nan)
        return replace(level, map=x)

    garbage = {m: replace(o, levels=tuple(spoilt(m, level) for level in o.levels)) for m, o in outputs.items()}
    expected, found = fusion(outputs, present), fusion(garbage, present)
    assert torch.equal(found.fused, expected.fused)
    assert torch.equal(found.logits["t"], expected.logits["t"])
    assert bool(found.logits["t"].isfinite().all())
    fusion.choose(outputs, present)
    expected_importance = fusion.importance.clone()
    fusion.choose(garbage, present)
    assert torch.equal(fusion.importance, expected_importance)


def test_an_absent_modality_enters_as_the_mean_of_what_is_known_with_a_learned_offset() -> None:
    fusion, outputs = fusion_of(), outputs_of(4)
    only_a = {"a": torch.ones(4).bool(), "b": torch.zeros(4).bool()}
    found = fusion(outputs, only_a)
    assert bool((found.fused[:, :-1] == 0).all())
    assert found.fused[:, -1].tolist() == [1.0] * 4
    stack = fusion.final["t"]
    z = torch.stack([level.logits["t"] for level in fusion._levels("a", outputs["a"], only_a["a"])], dim=-1)
    meta = (z * fusion.meta["a"]["t"].weight).sum(-1) + fusion.meta["a"]["t"].bias
    mean = (meta + z[..., 0]) / 2  # what an untrained stack says
    torch.testing.assert_close(found.auxiliary["tasks"][0].logits, mean + stack.absent.weight[:, 1])
    with torch.no_grad():
        stack.absent.weight.copy_(torch.tensor([[5.0, 7.0]]))
        stack.first.weight.copy_(torch.tensor([[2.0, 3.0, 4.0, 6.0]]))
    omega1 = fusion(outputs, only_a).auxiliary["tasks"][0].logits
    torch.testing.assert_close(omega1, 2 * meta + 3 * z[..., 0] + 10 * mean + 7)
    assert [aux.rows.tolist() for aux in found.auxiliary["levels"]] == [[True] * 4] * 3 + [[False] * 4] * 3


# --- cross-attention


def test_cross_attention_is_that_of_its_definition() -> None:
    fusion, outputs = fusion_of(levels={"a": 1, "b": 2}), outputs_of(5)
    present = all_present(5)
    fused = fusion(outputs, present).fused.detach()
    best = {m: fusion._levels(m, outputs[m], present[m])[k] for m, k in (("a", 1), ("b", 2))}
    cross, at = fusion.cross, 0
    for asks, told in (("a", "b"), ("b", "a")):
        rest = cross.rest.weight[["a", "b"].index(told)]
        for row in range(5):
            keys = torch.cat([rest[None], best[told].tokens[row][best[told].mask[row]]])
            queries = cross.query[asks](best[asks].tokens[row][best[asks].mask[row]])
            heads = []
            for h in (slice(0, 4), slice(4, 8)):
                scores = queries[:, h] @ cross.key[told](keys)[:, h].T / 2.0
                heads.append(scores.softmax(1) @ cross.value[told](keys)[:, h])
            torch.testing.assert_close(fused[row, at : at + 8], torch.cat(heads, dim=1).mean(0).detach())
        at += 8
    assert fused[:, at:].tolist() == [[0.0]] * 5


def test_attention_asks_even_a_level_of_a_single_token() -> None:
    fusion, outputs, present = fusion_of(), outputs_of(4), all_present(4)
    single = [Level(map=x.map[:, :, :1]) for x in outputs["b"].levels]
    outputs["b"] = replace(outputs["b"], levels=tuple(single))
    asked = fusion(outputs, present).fused[:, :8]
    outputs["a"] = outputs_of(4, seed=1)["a"]
    assert bool(((fusion(outputs, present).fused[:, :8] - asked).abs().amax(1) > 1e-4).all())


# --- stacking and the choice


def test_a_meta_learner_is_a_logistic_regression_over_the_levels() -> None:
    fusion, outputs = fusion_of(tasks={"t": 2}), outputs_of(300)
    g = torch.Generator().manual_seed(0)
    there = torch.rand(300, generator=g) < 0.8
    present = {"a": there, "b": torch.ones(300).bool()}
    level = fusion._levels("a", outputs["a"], there)
    x = torch.stack([each.logits["t"].detach() for each in level], dim=-1)
    y = (torch.rand(300, 2, generator=g) < torch.sigmoid(3 * x[..., 1] - x[..., 2] - 0.5)).double()
    stack = fusion.meta["a"]["t"]
    optimizer = torch.optim.LBFGS(stack.parameters(), max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        aux = fusion(outputs, present).auxiliary["meta"][0]
        loss = F.binary_cross_entropy_with_logits(aux.logits, y, reduction="none")[aux.rows].mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    for c in range(2):
        expected = LogisticRegression(C=1e12, tol=1e-10, max_iter=5000).fit(x[there, c].numpy(), y[there, c].numpy())
        torch.testing.assert_close(stack.weight[c].detach(), torch.tensor(expected.coef_[0]), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(stack.bias[c].item(), expected.intercept_[0], rtol=1e-3, atol=1e-3)


def test_importance_is_the_mean_absolute_weighted_deviation_of_a_level() -> None:
    fusion, outputs = fusion_of(tasks={"t": 2, "u": 3}), outputs_of(9)
    present = {"a": torch.arange(9) < 6, "b": torch.zeros(9).bool()}
    with torch.no_grad():
        fusion.meta["a"]["u"].weight.copy_(torch.tensor([[1.0, -2, 0], [0, 3, 0.5], [4, 0, 0]]))
    fusion.choose(outputs, present)
    z = torch.stack([x.logits["u"] for x in fusion._levels("a", outputs["a"], present["a"])], dim=-1)[:6].detach()
    expected = (fusion.meta["a"]["u"].weight * (z - z.mean(0))).abs().mean((0, 1))
    torch.testing.assert_close(fusion.importance[0, 1], expected.detach())
    assert bool((fusion.importance[1] == 0).all())  # nobody has it
    assert bool((fusion.importance[0] > 0).all())
    fusion.importance.copy_(torch.tensor([[[1.0, 0, 0], [0, 2, 0]], [[0, 0, 3.0], [2, 0, 0]]]))
    assert fusion.best_levels().tolist() == [1, 2]


@pytest.mark.parametrize("positives", [0.5, 0.07])
def test_the_choice_finds_the_level_that_carries_the_signal(positives: float) -> None:
    fusion, rows = fusion_of().float(), 600
    g = torch.Generator().manual_seed(3)
    y = (torch.rand(rows, 1, generator=g) < positives).float()
    outputs = each_tensor(lambda x: x.float() if x.is_floating_point() else x, outputs_of(rows, seed=1))
    outputs["b"].levels[1].map[:, 0] += 2 * y
    present, half = all_present(rows), {"levels": slice(0, 300), "meta": slice(300, 600)}
    for objective, part in half.items():
        some, there = take(outputs, torch.arange(rows)[part]), take(present, torch.arange(rows)[part])
        optimizer = torch.optim.Adam(getattr(fusion, objective).parameters(), lr=0.01)
        for _ in range(150):
            predictions = fusion(some, there).auxiliary[objective]
            loss = sum(F.binary_cross_entropy_with_logits(p.logits, y[part]) for p in predictions)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    fusion.choose(some, there)
    assert int(fusion.best_levels()[1]) == 1
    signal, (a, b) = fusion.importance[1, 0, 1], fusion.importance[:, 0]
    assert bool(signal > 3 * torch.cat([a, b[[0, 2]]]).max())


@pytest.mark.parametrize(
    "task",
    [
        {"type": "multiclass", "labels": ["x", "y", "z"]},
        {"type": "survival", "bins": 6},
        {"type": "regression"},
    ],
    ids=lambda t: t["type"],
)
def test_tasks_of_any_type_get_their_outputs(task: dict[str, Any]) -> None:
    n = {"multiclass": 3, "survival": 6, "regression": 1}[task["type"]]
    fusion = fusion_of(tasks={"t": n})
    found = fusion(outputs_of(4), all_present(4))
    assert {tuple(aux.logits.shape) for each in found.auxiliary.values() for aux in each} == {(4, n)}
    assert tuple(found.logits["t"].shape) == (4, n)


# --- what is refused


def test_levels_that_are_none_and_a_lone_modality_are_refused() -> None:
    with pytest.raises(ConsiliumError, match=r"model\.levels\.a = 3.*\n.*model\.levels\.c = 0") as caught:
        fusion_of(levels={"a": 3, "b": 2, "c": 0})
    assert caught.value.code == ExitCode.STUDY
    spec = FusionSpec(
        modalities=("a",), widths={"a": 5}, levels={"a": (3, 4, 5)}, tasks={"t": 1}, model=ModelPlan(system="lemof")
    )
    with pytest.raises(ConsiliumError, match="at least two"):
        build(spec)


# --- ablations


def test_one_module_alone() -> None:
    plan = {"system": "lemof", "width": 8, "heads": 2, "dropout": 0.0}
    spec = FusionSpec(
        modalities=tuple(CHANNELS), widths={"a": 5, "b": 8}, levels=CHANNELS, tasks={"t": 1},
        model=ModelPlan.model_validate(plan),
    )  # fmt: skip
    torch.manual_seed(0)
    both, outputs = build(spec).double().eval(), outputs_of(6)
    first, second = (make(spec).double().eval() for make in (build_first, build_second))
    for part in (first, second):
        own = part.state_dict()
        part.load_state_dict({name: both.state_dict()[name] for name in own})
    present = {"a": torch.tensor([1, 1, 0, 1, 1, 1]).bool(), "b": torch.tensor([1, 1, 1, 0, 1, 1]).bool()}
    whole = both(outputs, present)
    torch.testing.assert_close(first(outputs, present).logits["t"], whole.auxiliary["tasks"][0].logits)
    paired = present["a"] & present["b"]
    found = second(outputs, present).logits["t"]
    torch.testing.assert_close(found[paired], whole.auxiliary["cross"][0].logits[paired])
    meta = dict(zip(("a", "b"), whole.auxiliary["meta"], strict=True))  # a modality alone has nothing to attend to
    torch.testing.assert_close(found[2:4], torch.stack([meta["b"].logits[2], meta["a"].logits[3]]))


def test_a_prediction_can_be_traced_to_the_levels_but_no_stack_trains_them() -> None:
    fusion, outputs = fusion_of(), outputs_of(4)
    first = outputs["a"].levels[0].map.requires_grad_()
    for training, reached in ((False, True), (True, False)):
        fusion.train(training)
        logits = fusion(outputs, all_present(4)).logits["t"]
        gradient = torch.autograd.grad(logits.sum(), first, allow_unused=True)[0]
        assert (gradient is not None and bool(gradient.abs().max() > 0)) is reached
