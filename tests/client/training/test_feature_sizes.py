"""What the feature cache holds, and when it runs an encoder: no more than is needed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from fl_client.training import features as features_module
from fl_client.training.loop import Trainer
from fl_shared.models.build import build_model, select
from fl_shared.models.fusion.level_predictor import TOKENS
from fl_shared.models.interface import EncoderOutput, FusionSpec, Level
from fl_shared.models.registry import FUSIONS
from fl_shared.study import ModelPlan

Make = Callable[..., Trainer]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what was asked for while a cache was filled: ``ecg`` (an encoder ran), ``digest``."""
    found: list[str] = []
    run, digest = features_module.FeatureCache._computed, features_module.digest

    def computed(self: Any, name: str) -> Any:
        found.append(name)
        return run(self, name)

    def digested(arrays: Any) -> str:
        found.append("digest")
        return digest(arrays)

    monkeypatch.setattr(features_module.FeatureCache, "_computed", computed)
    monkeypatch.setattr(features_module, "digest", digested)
    return found


def test_a_frozen_encoder_is_run_and_read_once(make_study: Any, make_trainer: Make, runs: list[str]) -> None:
    study = make_study(encoders="frozen")
    trainer = make_trainer(study)
    assert sorted(runs) == ["digest", "digest", "ecg", "ehr"]
    runs.clear()
    base = select(build_model(study), study.is_shared)
    for number in (1, 2):
        base = trainer.train(round=number, base=base, sigma=None)
        trainer.evaluate(arrays=base)
    assert not runs


def test_what_is_written_to_an_encoder_is_seen(make_study: Any, make_trainer: Make, runs: list[str]) -> None:
    trainer = make_trainer(make_study(encoders="frozen"))
    weight = trainer._model.encoders["ecg"].conv.weight
    old = weight.detach().clone()
    before = trainer._features.fill(trainer._batch).features["ecg"].pooled
    runs.clear()
    with torch.no_grad():
        weight.copy_(old)
    trainer._features.fill(trainer._batch)
    assert runs == ["digest"]  # the same weights again
    with torch.no_grad():
        weight.mul_(2)
    after = trainer._features.fill(trainer._batch).features["ecg"].pooled
    assert runs[1:] == ["digest", "ecg"]
    assert not torch.equal(after, before)


def test_kept_modalities_bring_no_inputs_and_no_masks(make_study: Any, make_trainer: Make) -> None:
    phases = [{"name": "one", "rounds": 2, "objective": "tasks", "trains": ["heads", "adapters", "fusion"]}]
    trainer = make_trainer(make_study(encoders="frozen", drawn=True, rounds=2, phases=phases))
    filled = trainer._features.fill(trainer._batch)
    assert set(filled.features) == set(trainer._batch.inputs) == {"ecg", "ehr", "cine"}
    assert not any(filled.inputs.values())
    assert set(filled.targets) == set(filled.target_mask) == {"death", "mace"}


@pytest.mark.parametrize("numbers", [1, 450, 10**9])
def test_large_inputs_pass_in_small_parts(
    make_study: Any, make_trainer: Make, monkeypatch: pytest.MonkeyPatch, numbers: int
) -> None:
    """An ECG of this study has 200 numbers and 2 of its mask."""
    whole = make_trainer(make_study(encoders="frozen"), state="whole")
    monkeypatch.setattr(features_module, "NUMBERS", numbers)
    sizes: list[int] = []
    trainer = make_trainer(make_study(encoders="frozen"), state="parts")
    compute = trainer._model.features

    def counted(name: str, batch: Any) -> Any:
        sizes.append(len(batch))
        return compute(name, batch)

    monkeypatch.setattr(trainer._model, "features", counted)
    found = trainer._features._computed("ecg")
    assert max(sizes) == {1: 1, 450: 2}.get(numbers, 45)
    assert sum(sizes) == 45
    torch.testing.assert_close(found.pooled, whole._features.fill(whole._batch).features["ecg"].pooled)


NEEDED: dict[str, dict[str, Any]] = {
    "attention": {"tokens": True, "levels": 0},
    "medfuse": {"tokens": False, "levels": 0},
    "lemof": {"tokens": False, "levels": 3},
}


@pytest.mark.parametrize("system", NEEDED)
def test_only_what_the_fusion_reads_is_kept(make_study: Any, make_trainer: Make, system: str) -> None:
    trainer = make_trainer(make_study(encoders="frozen", rounds=5, model={"system": system}))
    trainer._model.enter(1)
    for known in trainer._features.fill(trainer._batch).features.values():
        assert bool(known.tokens.shape[1]) == bool(known.token_mask.shape[1]) == NEEDED[system]["tokens"]
        assert len(known.levels) == NEEDED[system]["levels"]
        assert all(level.map.shape[2:] == (TOKENS,) for level in known.levels)


def test_lemof_reads_kept_levels_as_whole_maps() -> None:
    """Of a cine too, some of whose frames are masked and whose row is absent; and with a modality hidden later on."""
    maps = {"cine": (4, 3, 2, 9, 9), "ecg": (4, 50), "ehr": (4, 1)}
    spec = FusionSpec(
        modalities=tuple(maps),
        widths=dict.fromkeys(maps, 8),
        levels=dict.fromkeys(maps, (4, 4, 4)),
        tasks={"death": 1},
        model=ModelPlan(width=8, heads=2, dropout=0.0, levels={"cine": 1}),
    )
    torch.manual_seed(0)
    fusion = FUSIONS.get("level_guided", key="").build(spec).eval()
    present = {"cine": torch.arange(6) > 0, "ecg": torch.ones(6, dtype=torch.bool), "ehr": torch.arange(6) != 3}
    whole = {}
    for name, shape in maps.items():
        masks = torch.rand(3, 6, *shape[1:]) < 0.6
        levels = tuple(
            Level(map=torch.randn(6, *shape), mask=mask & present[name].view(6, *[1] * (len(shape) - 1)))
            for mask in masks
        )
        tokens = torch.randn(6, 5, 8)
        whole[name] = EncoderOutput(pooled=tokens[:, 0], tokens=tokens, token_mask=tokens[..., 0] > 0, levels=levels)
    kept = {name: fusion.kept(output, present[name]) for name, output in whole.items()}
    for there in (present, {**present, "ecg": torch.arange(6) % 2 == 0}):
        one, other = fusion(whole, there), fusion(kept, there)
        torch.testing.assert_close(other.fused, one.fused)
        for objective in one.auxiliary:
            for a, b in zip(one.auxiliary[objective], other.auxiliary[objective], strict=True):
                torch.testing.assert_close(b.logits[b.rows], a.logits[a.rows])
