"""Features of constant encoders: the same training without them, never of other weights, never where they mislead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fl_client.data.cohort import Cohort
from fl_client.training.features import FeatureCache, joined
from fl_client.training.loop import Trainer
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model, select
from fl_shared.study import Study
from fl_shared.wire import Arrays

Make = Callable[..., Trainer]
HEADS = ["heads", "adapters", "fusion"]


def phase(objective: str, *trains: str, name: str = "one", rounds: int = 2) -> dict[str, Any]:
    return {"name": name, "rounds": rounds, "objective": objective, "trains": list(trains)}


def run(trainer: Trainer, study: Study, *numbers: int) -> Arrays:
    base: Arrays = select(build_model(study), study.is_shared)
    for number in numbers:
        base = {**base, **trainer.train(round=number, base=base, sigma=None)}
    return base


CASES = {
    "dropout": {"encoders": "frozen", "dropout": 0.4},
    "unimodal": {"encoders": "frozen", "rounds": 2, "phases": [phase("unimodal", *HEADS)]},
    "segmentation": {"encoders": "frozen", "rounds": 2, "drawn": True, "phases": [phase("segmentation", "heads")]},
    "masked": {"encoders": "frozen", "rounds": 2, "phases": [phase("masked", "heads")]},
    "levels": {"encoders": "frozen", "rounds": 4, "model": {"system": "lemof", "levels": {"ecg": 1, "ehr": 2}}},
}


@pytest.mark.parametrize("case", CASES)
def test_training_with_features_is_training_without(
    make_study: Any, make_trainer: Make, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Adam would magnify rounding; dropout draws the same numbers, since frozen encoders draw none."""
    study = make_study(**{"dropout": 0.0, "optimizer": "sgd", "learning_rate": 0.05, **CASES[case]})
    numbers = range(1, min(study.training.rounds, 5) + 1)
    cached = run(make_trainer(study, state="cached"), study, *numbers)
    monkeypatch.setattr(FeatureCache, "fill", lambda self, batch: batch)
    start = select(build_model(study), study.is_shared)
    for name, array in run(make_trainer(study, state="plain"), study, *numbers).items():
        np.testing.assert_allclose(cached[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
    assert any(not np.array_equal(cached[name], start[name]) for name in cached)


def test_masked_and_segmentation_never_see_features(make_study: Any, make_trainer: Make) -> None:
    """Features of the whole series would show the head what it is to guess."""
    for case in ("masked", "segmentation"):
        trainer = make_trainer(make_study(**CASES[case]), state=case)
        assert trainer._features.fill(trainer._batch).features == {}


def test_features_follow_the_encoders_that_were_judged_and_those_that_are_trained_on(
    make_study: Any, make_trainer: Make
) -> None:
    """Local encoders rest in the second phase; in between the mean of all sites is judged."""
    phases = [phase("unimodal", "encoders", *HEADS, rounds=1), phase("tasks", *HEADS, name="two", rounds=2)]
    study = make_study(rounds=3, phases=phases, dropout=0.0, finetune=1)
    judged, quiet = make_trainer(study, state="judged"), make_trainer(study, state="quiet")
    base = {**run(judged, study, 1)}
    run(quiet, study, 1)
    for number in (2, 3):
        judged.evaluate(arrays={**base, **{k: v * 0.5 for k, v in judged.encoders().items()}})
        found = judged.train(round=number, base=base, sigma=None)
        expected = quiet.train(round=number, base=base, sigma=None)
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
        base = {**base, **found}
    now = judged._features.fill(judged._batch).features["ecg"]
    torch.testing.assert_close(now.pooled, judged._model.features("ecg", judged._batch).pooled)


def test_features_are_dropped_when_their_encoder_is_trained(make_study: Any, make_trainer: Make) -> None:
    phases = [phase("tasks", *HEADS, rounds=1), phase("tasks", "encoders.ecg", *HEADS, name="two", rounds=1)]
    study = make_study(rounds=2, phases=phases, encoders="shared")
    trainer = make_trainer(study)
    run(trainer, study, 1)
    assert set(trainer._features._known) == {"ecg", "ehr"}
    run(trainer, study, 1, 2)
    assert set(trainer._features._known) == {"ehr"}


def test_levels_are_kept_for_fusions_that_read_them_only(make_study: Any, make_trainer: Make) -> None:
    kept = {}
    for system in ("attention", "lemof"):
        trainer = make_trainer(make_study(encoders="frozen", rounds=5, model={"system": system}), state=system)
        trainer._model.enter(1)
        kept[system] = [len(known.levels) for known in trainer._features.fill(trainer._batch).features.values()]
    assert kept == {"attention": [0, 0], "lemof": [3, 3]}


@pytest.mark.parametrize("encoders", ["frozen", "shared"])
def test_a_modality_that_nobody_here_has(
    make_study: Any, make_trainer: Make, make_cohort: Callable[..., Cohort], encoders: str
) -> None:
    """The site trains what it can; what belongs to the absent modality gets no gradient."""
    study = make_study(encoders=encoders, optimizer="sgd", dropout=0.0)
    whole = make_cohort("a")
    nobody = {key: np.zeros_like(value) for key, value in whole.inputs["ecg"].items()}
    present = {"ecg": np.zeros_like(whole.present["ecg"]), "ehr": np.ones_like(whole.present["ehr"])}
    trainer = make_trainer(study, known=replace(whole, inputs={**whole.inputs, "ecg": nobody}, present=present))
    start = select(build_model(study), study.is_shared)
    found = run(trainer, study, 1)
    moved = {name for name in found if not np.array_equal(found[name], start[name])}
    assert not any(name.startswith(("encoders.ecg.", "adapters.ecg.")) for name in moved)
    assert any(name.startswith("heads.") for name in moved)
    assert trainer.trained_on() == {"ehr"}
    rows = trainer.evaluate(arrays=found).evaluation
    assert {row.modalities for row in rows if row.value is not None} == {"ehr", "all"}


@pytest.mark.parametrize("mode", ["none", "patient"])
def test_a_site_without_rows_says_so(
    make_study: Any, make_trainer: Make, make_cohort: Callable[..., Cohort], mode: str
) -> None:
    whole = make_cohort("a")
    everyone = replace(whole, held_out=np.ones_like(whole.held_out))
    with pytest.raises(ConsiliumError, match="no patient to train on") as caught:
        make_trainer(make_study(mode=mode, encoders="frozen"), known=everyone)
    assert caught.value.code == ExitCode.DATA


def test_parts_are_joined_row_after_row() -> None:
    long, short = torch.ones(2, 3, 4), torch.ones(1, 2, 4)
    whole = joined([{"x": (long,)}, {"x": (short,)}])["x"][0]
    assert whole.shape == (3, 3, 4) and whole[2, 2].sum() == 0 and whole[:2].sum() == 24
