"""Which rows and modalities are judged, and with which model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fl_client.training import judge
from fl_client.training.loop import Trainer
from fl_shared.models.build import build_model, select
from fl_shared.study import PARTS

Make = Callable[..., Trainer]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    def record(**arguments: Any) -> tuple[list[Any], list[Any]]:
        seen.append(arguments)
        return [], []

    monkeypatch.setattr(judge, "evaluate_predictions", record)
    return seen


def test_a_training_site_is_judged_on_held_out_patients_only(make_study: Any, make_trainer: Make, calls: Any):
    study = make_study()
    trainer = make_trainer(study)
    trainer.evaluate(arrays=select(build_model(study), study.shared_groups))
    cohort = trainer._cohort
    held_out = cohort.rows(held_out=True)
    assert [(c["modalities"], c["task"]) for c in calls] == [
        (m, t) for m in ("ecg", "ehr", "all") for t in ("death", "mace")
    ]
    for call in calls:
        members = ("ecg", "ehr") if call["modalities"] == "all" else (call["modalities"],)
        expected = held_out[np.any([cohort.present[m][held_out] for m in members], axis=0)]
        assert call["patients"].tolist() == cohort.patient[expected].tolist()
        assert cohort.held_out[call["patients"]].all()
        np.testing.assert_array_equal(call["targets"], cohort.targets[call["task"]][expected])
        np.testing.assert_array_equal(call["mask"], cohort.target_mask[call["task"]][expected])
        assert call["scores"].shape == call["targets"].shape
        assert ((call["scores"] >= 0) & (call["scores"] <= 1)).all()
    assert calls[-1] | {"scores": 0, "targets": 0, "mask": 0, "patients": 0} == {
        "site": "a",
        "role": "train",
        "task": "mace",
        "labels": ("mi", "hf"),
        "headline": ("hf",),
        "modalities": "all",
        "model": "federated",
        "bootstrap": 100,
        "seed": 3,
        "min_patients": 2,
    } | {"scores": 0, "targets": 0, "mask": 0, "patients": 0}


def test_an_external_site_is_judged_on_everybody(make_study: Any, make_trainer: Make, calls: Any):
    study = make_study()
    trainer = make_trainer(study, name="z")
    trainer.evaluate(arrays=select(build_model(study), study.shared_groups))
    everyone = next(c for c in calls if c["modalities"] == "all")
    assert len(everyone["patients"]) == len(trainer._cohort)
    assert everyone["role"] == "external"


def test_headline_leaves_out_what_states_the_diagnosis(make_study: Any, make_trainer: Make, calls: Any):
    study = make_study(leaky=True)
    make_trainer(study).evaluate(arrays=select(build_model(study), study.shared_groups))
    scores = {c["modalities"]: c["scores"] for c in calls if c["task"] == "death"}
    assert list(scores) == ["ecg", "ehr", "all", "headline"]
    np.testing.assert_array_equal(scores["headline"], scores["ecg"])
    assert not np.array_equal(scores["headline"], scores["all"][: len(scores["headline"])])


def test_a_hidden_modality_cannot_matter(make_study: Any, make_trainer: Make, calls: Any):
    study = make_study()
    trainer = make_trainer(study)
    arrays = select(build_model(study), study.shared_groups)
    trainer.evaluate(arrays=arrays)
    trainer._batch.inputs["ehr"]["values"].mul_(-7).add_(3)
    trainer.evaluate(arrays=arrays)
    first, second = calls[:6], calls[6:]
    for one, other in zip(first, second, strict=True):
        same = np.array_equal(one["scores"], other["scores"])
        assert same == (one["modalities"] == "ecg")


def test_whose_encoders_are_judged(make_study: Any, make_trainer: Make, calls: Any):
    study = make_study(steps=20, learning_rate=0.01)
    base = select(build_model(study), study.shared_groups)
    trained = make_trainer(study)
    shared = trained.train(round=1, base=base, sigma=None)

    def scores(trainer: Trainer, **more: Any) -> Any:
        calls.clear()
        trainer.evaluate(arrays={**shared, **more})
        return calls[-1]["scores"]

    own = scores(trained)
    given = scores(trained, **trained.encoders())
    np.testing.assert_array_equal(own, given)
    initial = {
        k: v for k, v in select(build_model(study), PARTS).items() if k.split(".")[0] in ("encoders", "adapters")
    }
    assert not np.array_equal(own, scores(trained, **initial))
    np.testing.assert_array_equal(own, scores(trained))  # what was sent for judging is not kept

    external = make_trainer(study, name="z", state="z")
    np.testing.assert_array_equal(scores(external), scores(external, **initial))
    assert not np.array_equal(scores(external), scores(external, **trained.encoders()))


def test_predictions_do_not_depend_on_the_other_rows(make_study: Any, make_trainer: Make, monkeypatch: Any):
    trainer = make_trainer(make_study())
    rows = np.arange(len(trainer._cohort))
    whole = judge.predict(trainer._model, trainer._batch, rows=rows, members=("ecg", "ehr"))
    monkeypatch.setattr(judge, "ROWS", 7)
    parts = judge.predict(trainer._model, trainer._batch, rows=rows, members=("ecg", "ehr"))
    for task in whole:
        np.testing.assert_allclose(parts[task], whole[task], rtol=1e-5, atol=1e-6)
    assert not trainer._model.training
    assert torch.is_grad_enabled()


def test_real_metrics_come_out(make_study: Any, make_trainer: Make):
    study = make_study()
    rows, _ = make_trainer(study, name="z").evaluate(arrays=select(build_model(study), study.shared_groups))
    assert {row.modalities for row in rows} == {"ecg", "ehr", "all"}
    assert {(row.task, row.label) for row in rows} >= {("death", ""), ("mace", "mi"), ("mace", "hf"), ("mace", "macro")}
