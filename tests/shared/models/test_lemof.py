"""LeMoF: what each phase trains, level tokens, stacking, absence, and the choice of the best level."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from fl_client.privacy import clipping
from fl_client.privacy.clipping import GhostClipper
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model
from fl_shared.models.fusion.level_guided import LevelGuidedFusion, build
from fl_shared.models.fusion.level_predictor import TOKENS, pool
from fl_shared.models.interface import Batch, EncoderOutput, FusionSpec, Level, each_tensor, take
from fl_shared.models.model import MultimodalModel
from fl_shared.study import ModelPlan, Study

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
        return Level(map=x, vec=x.mean(-1), mask=torch.rand(rows, length, generator=g) < 0.8)

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


def study_of(plan: dict[str, Any], *, levels: Mapping[str, int] | None = None, private: bool = False) -> Study:
    plan["model"] = {"system": "lemof", "width": 16, "heads": 2, "dropout": 0.0, "modality_dropout": 0.0}
    plan["model"] |= {"levels": levels} if levels else {}
    plan["training"] = {"rounds": 5 - (levels is not None and len(levels) == 5), "steps": 1, "batch": 4}
    plan["privacy"] = {"mode": "patient", "epsilon": 8} if private else {"mode": "none"}
    return Study.model_validate(plan)


def trainable(model: MultimodalModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# --- level tokens


@pytest.mark.parametrize("length", [1, 7, 16, 50])
def test_a_sequence_is_pooled_over_equal_shares_of_its_valid_part(length: int) -> None:
    g = torch.Generator().manual_seed(length)
    x = torch.randn(6, 3, length, generator=g, dtype=torch.float64)
    mask = torch.rand(6, length, generator=g) < 0.7
    mask[0], mask[1] = True, False
    there = torch.tensor([True, True, True, True, True, False])
    tokens, valid = pool(Level(map=x.masked_fill(~mask[:, None], torch.nan), vec=x[..., 0], mask=mask), there)
    for row in range(6):
        positions = [s for s in range(length) if mask[row, s] and there[row]]
        parts: dict[int, list[int]] = {}
        for rank, s in enumerate(positions):
            parts.setdefault(rank * TOKENS // len(positions), []).append(s)
        assert valid[row].nonzero()[:, 0].tolist() == sorted(parts)
        sizes = [len(s) for s in parts.values()]
        assert not sizes or max(sizes) - min(sizes) <= 1
        for part, members in parts.items():
            torch.testing.assert_close(tokens[row, part], x[row][:, members].mean(1))


def test_a_row_does_not_depend_on_how_far_the_batch_is_padded() -> None:
    x, there = torch.randn(2, 3, 21, dtype=torch.float64), torch.ones(2, dtype=torch.bool)
    mask = torch.arange(21) < torch.tensor([[21], [5]])
    short = Level(map=x, vec=x[..., 0], mask=mask)
    long = Level(map=F.pad(x, (0, 30), value=9.0), vec=x[..., 0], mask=F.pad(mask, (0, 30)))
    for found, expected in zip(pool(long, there), pool(short, there), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_cine_is_pooled_over_a_fixed_grid_and_its_missing_frames_are_left_out() -> None:
    x, there = torch.randn(2, 3, 8, 6, 4, dtype=torch.float64), torch.ones(2, dtype=torch.bool)
    tokens, valid = pool(Level(map=x, vec=x[..., 0, 0, 0]), there)
    torch.testing.assert_close(tokens, F.adaptive_avg_pool3d(x, (4, 2, 2)).flatten(2).transpose(1, 2))
    assert valid.all()
    frames = torch.tensor([True] * 3 + [False] * 5)[None, :, None, None].expand(2, 8, 6, 4)
    tokens, valid = pool(Level(map=x, vec=x[..., 0, 0, 0], mask=frames), there)
    assert valid.tolist() == [[True] * 8 + [False] * 8] * 2
    torch.testing.assert_close(tokens[:, 4:8], F.adaptive_avg_pool2d(x[:, :, 2], (2, 2)).flatten(2).transpose(1, 2))


def test_a_level_without_positions_is_one_token() -> None:
    x = torch.randn(2, 3)
    tokens, valid = pool(Level(map=x, vec=x), torch.tensor([True, False]))
    assert valid.sum(1).tolist() == [1, 0]
    torch.testing.assert_close(tokens[0, 0], x[0])


# --- phases


def test_each_phase_trains_its_part_and_nothing_else(plan: dict[str, Any], rows: Rows) -> None:
    model = build_model(study_of(plan)).train()
    batch, seen = rows(24), []
    for round in (1, 2, 4, 5):
        model.enter(round)
        model.zero_grad(set_to_none=True)
        model.losses(model(batch), batch).sum().backward()
        reached = {n for n, p in model.named_parameters() if p.grad is not None and float(p.grad.abs().max()) > 1e-8}
        # what encoders do after their last level is not read, and softmax does not see the bias of BERT's keys
        beyond = {n for n in trainable(model) if n.startswith("encoders.") and n.split(".")[2] == "norm"}
        assert reached == {n for n in trainable(model) - beyond if not n.endswith("attention.self.key.bias")}
        seen.append({".".join(n.split(".")[:2]) if n.startswith("fusion") else "encoders" for n in reached})
    assert seen == [{"encoders", "fusion.levels"}, {"fusion.meta"}, {"fusion.cross"}, {"fusion.final"}]
    assert not any(name.startswith("adapters.") for name in model.state_dict())
    model.enter(3)
    assert trainable(model) == set()
    assert model.objective == "choose"


def test_a_step_of_each_phase_lowers_its_loss(plan: dict[str, Any], rows: Rows) -> None:
    model, batch = build_model(study_of(plan)).train(), rows(24)
    for round in (1, 2, 4, 5):
        model.enter(round)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
        losses = []
        for _ in range(2):
            optimizer.zero_grad()
            loss = model.losses(model(batch), batch).sum()
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
        assert losses[1] < losses[0]


def test_the_choice_is_a_shared_float32_array_that_its_phase_alone_releases(plan: dict[str, Any], rows: Rows) -> None:
    study = study_of(plan)
    model = build_model(study)
    importance = model.state_dict()["fusion.importance"]
    assert (importance.dtype, tuple(importance.shape)) == (torch.float32, (5, 2, 3))
    assert [study.releases("fusion.importance", r) for r in range(1, 6)] == [False, False, True, False, False]
    assert not any("fixed" in name for name in model.state_dict())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.enter(3)
    model.choose(rows(24))
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ["fusion.importance"]
    assert bool((importance > 0).all())


@pytest.mark.parametrize("round", [1, 2, 3, 4], ids=["levels", "meta", "cross", "final"])
def test_per_patient_gradients_are_exact_with_fixed_levels(
    plan: dict[str, Any], rows: Rows, round: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clipping, "MARGIN", 0.0)
    fixed = {"cine": 2, "ecg": 1, "ehr": 0, "series": 1, "text": 2}
    model = build_model(study_of(plan, levels=fixed, private=True)).double().train()
    model.enter(round)
    batch = rows(7, dtype=torch.float64)
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    alone = []
    for row in torch.arange(7).split(1):
        one = take(batch, row)
        alone.append(torch.autograd.grad(model.losses(model(one), one).sum(), list(named.values()), allow_unused=True))
    norms = [torch.stack([g.norm() for g in each if g is not None]).norm() for each in alone]
    clip = float(sorted(norms)[3])
    clipper = GhostClipper(model)
    found = clipper.clipped_sum(batch, clip=clip, micro_batch=64)
    for i, name in enumerate(named):
        weighed = [
            each[i] * min(1.0, clip / float(n)) for each, n in zip(alone, norms, strict=True) if each[i] is not None
        ]
        expected = torch.stack(weighed).sum(0) if weighed else torch.zeros_like(named[name])
        torch.testing.assert_close(found[name], expected, rtol=1e-8, atol=1e-11, msg=name)
    clipper.self_test(batch)


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


def test_an_absent_modality_enters_as_nothing_but_a_learned_offset() -> None:
    fusion, outputs = fusion_of(), outputs_of(4)
    only_a = {"a": torch.ones(4).bool(), "b": torch.zeros(4).bool()}
    found = fusion(outputs, only_a)
    assert bool((found.fused[:, :-1] == 0).all())
    assert found.fused[:, -1].tolist() == [1.0] * 4
    stack = fusion.final["t"]
    z = torch.stack([level.logits["t"] for level in fusion._levels("a", outputs["a"], only_a["a"])], dim=-1)
    meta = (z * fusion.meta["a"]["t"].weight).sum(-1) + fusion.meta["a"]["t"].bias
    with torch.no_grad():
        stack.absent.weight.copy_(torch.tensor([[5.0, 7.0]]))
        stack.first.weight.copy_(torch.tensor([[2.0, 3.0, 100.0, 100.0]]))
    omega1 = fusion(outputs, only_a).auxiliary["tasks"][0].logits
    torch.testing.assert_close(omega1, 2 * meta + 3 * z[..., 0] + 7)
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
    single = [Level(map=x.map[:, :, :1], vec=x.vec) for x in outputs["b"].levels]
    outputs["b"] = replace(outputs["b"], levels=tuple(single))
    asked = fusion(outputs, present).fused[:, :8]
    outputs["a"] = outputs_of(4, seed=1)["a"]
    assert bool(((fusion(outputs, present).fused[:, :8] - asked).abs().amax(1) > 1e-4).all())


# --- stacking and the choice


def test_untrained_stacks_are_means(plan: dict[str, Any], rows: Rows) -> None:
    model, batch = build_model(study_of(plan)).eval(), rows(12)
    outputs = {name: model.encode(name, batch) for name in model.encoders}
    found = model.fusion(outputs, batch.present)
    levels = [a.logits for a in found.auxiliary["levels"] if a.task == "mace"]
    meta = [a.logits for a in found.auxiliary["meta"] if a.task == "mace"]
    for m in range(5):
        torch.testing.assert_close(meta[m], torch.stack(levels[3 * m : 3 * m + 3]).mean(0))
    omega2 = next(a.logits for a in found.auxiliary["cross"] if a.task == "mace")
    there = torch.stack([batch.present[m] for m in model.encoders])[:, :, None]
    omega1 = torch.stack([z for m in range(5) for z in (meta[m] * there[m], levels[3 * m] * there[m])]).mean(0)
    torch.testing.assert_close(found.logits["mace"], (omega1 + omega2) / 2)


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


# --- the study


def test_fixed_levels_are_used_and_no_choice_is_made(plan: dict[str, Any]) -> None:
    fixed = {"cine": 2, "ecg": 1, "ehr": 0, "series": 1, "text": 2}
    study = study_of(plan, levels=fixed, private=True)
    assert [phase.name for phase in study.training.phases] == ["levels", "meta", "cross", "final"]
    fusion = build_model(study).fusion
    assert isinstance(fusion, LevelGuidedFusion)
    assert fusion.best_levels().tolist() == [2, 1, 0, 1, 2]
    with pytest.raises(ValueError, match=r"fix model\.levels"):
        study_of(plan, levels={"ecg": 1}, private=True)


def test_levels_that_are_none_and_a_lone_modality_are_refused() -> None:
    with pytest.raises(ConsiliumError, match=r"model\.levels\.a = 3.*\n.*model\.levels\.c = 0") as caught:
        fusion_of(levels={"a": 3, "b": 2, "c": 0})
    assert caught.value.code == ExitCode.STUDY
    spec = FusionSpec(
        modalities=("a",), widths={"a": 5}, levels={"a": (3, 4, 5)}, tasks={"t": 1}, model=ModelPlan(system="lemof")
    )
    with pytest.raises(ConsiliumError, match="at least two"):
        build(spec)
