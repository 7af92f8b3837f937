"""LeMoF in a study: what each of its phases trains, and what privacy asks of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from fl_client.privacy import clipping
from fl_client.privacy.clipping import GhostClipper
from fl_shared.models.build import build_model
from fl_shared.models.fusion.level_guided import LevelGuidedFusion
from fl_shared.models.interface import Batch, take
from fl_shared.models.model import MultimodalModel
from fl_shared.study import Study

Rows = Callable[..., Batch]


def study_of(plan: dict[str, Any], *, levels: Mapping[str, int] | None = None, private: bool = False) -> Study:
    plan["model"] = {"system": "lemof", "width": 16, "heads": 2, "dropout": 0.0, "modality_dropout": 0.0}
    plan["model"] |= {"levels": levels} if levels else {}
    plan["training"] = {"rounds": 5 - (levels is not None and len(levels) == 5), "steps": 1, "batch": 4}
    plan["privacy"] = {"mode": "patient", "epsilon": 8} if private else {"mode": "none"}
    return Study.model_validate(plan)


def trainable(model: MultimodalModel) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


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


def test_only_stacks_take_larger_steps_than_the_study_s(plan: dict[str, Any]) -> None:
    training = study_of(plan).training
    larger = [phase.name for phase in training.phases if (phase.learning_rate or 0) > training.learning_rate]
    assert larger == ["meta", "final"]


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
    known = torch.stack([(meta[m] + levels[3 * m]) * there[m] for m in range(5)])
    omega1 = known.sum(0) / (2 * there.sum(0))
    torch.testing.assert_close(found.logits["mace"], (omega1 + omega2) / 2)


def test_fixed_levels_are_used_and_no_choice_is_made(plan: dict[str, Any]) -> None:
    fixed = {"cine": 2, "ecg": 1, "ehr": 0, "series": 1, "text": 2}
    study = study_of(plan, levels=fixed, private=True)
    assert [phase.name for phase in study.training.phases] == ["levels", "meta", "cross", "final"]
    fusion = build_model(study).fusion
    assert isinstance(fusion, LevelGuidedFusion)
    assert fusion.best_levels().tolist() == [2, 1, 0, 1, 2]
    with pytest.raises(ValueError, match="best level is a release of its own"):
        study_of(plan, levels={"ecg": 1}, private=True)
