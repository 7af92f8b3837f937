"""Which rows and modalities are judged, and with which model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fl_client.data.cohort import Cohort
from fl_client.training import judge
from fl_client.training.findings import judged
from fl_client.training.loop import Trainer
from fl_client.training.rows import as_batch
from fl_shared.counts import subsets
from fl_shared.metrics.segmentation import hausdorff_95
from fl_shared.metrics.table import METRICS
from fl_shared.models.build import build_model, select
from fl_shared.models.interface import take
from fl_shared.study import Study

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
    trainer.evaluate(arrays=select(build_model(study), study.is_shared))
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
        assert call["predictions"].shape == call["targets"].shape
        assert ((call["predictions"] >= 0) & (call["predictions"] <= 1)).all()
    assert calls[-1] | {"predictions": 0, "targets": 0, "mask": 0, "patients": 0} == {
        "site": "a",
        "role": "train",
        "task": "mace",
        "plan": study.tasks["mace"],
        "modalities": "all",
        "model": "federated",
        "bootstrap": 100,
        "seed": 3,
        "min_patients": 2,
        "gives_away": frozenset(),
    } | {"predictions": 0, "targets": 0, "mask": 0, "patients": 0}


def test_an_external_site_is_judged_on_everybody(make_study: Any, make_trainer: Make, calls: Any):
    study = make_study()
    trainer = make_trainer(study, name="z")
    trainer.evaluate(arrays=select(build_model(study), study.is_shared))
    everyone = next(c for c in calls if c["modalities"] == "all")
    assert len(everyone["patients"]) == len(trainer._cohort)
    assert everyone["role"] == "external"


def test_headline_leaves_out_what_states_the_diagnosis(make_study: Any, make_trainer: Make, calls: Any):
    study = make_study(leaky=True)
    make_trainer(study).evaluate(arrays=select(build_model(study), study.is_shared))
    scores = {c["modalities"]: c["predictions"] for c in calls if c["task"] == "death"}
    assert list(scores) == ["ecg", "ehr", "all", "headline"]
    np.testing.assert_array_equal(scores["headline"], scores["ecg"])
    assert not np.array_equal(scores["headline"], scores["all"][: len(scores["headline"])])


def test_a_hidden_modality_cannot_matter(make_study: Any, make_trainer: Make, calls: Any):
    study = make_study()
    trainer = make_trainer(study)
    arrays = select(build_model(study), study.is_shared)
    trainer.evaluate(arrays=arrays)
    trainer._batch.inputs["ehr"]["values"].mul_(-7).add_(3)
    trainer.evaluate(arrays=arrays)
    first, second = calls[:6], calls[6:]
    for one, other in zip(first, second, strict=True):
        same = np.array_equal(one["predictions"], other["predictions"])
        assert same == (one["modalities"] == "ecg")


def test_whose_encoders_are_judged(make_study: Any, make_trainer: Make, calls: Any):
    study = make_study(steps=20, learning_rate=0.01)
    base = select(build_model(study), study.is_shared)
    trained = make_trainer(study)
    shared = trained.train(round=1, base=base, sigma=None)

    def scores(trainer: Trainer, **more: Any) -> Any:
        calls.clear()
        trainer.evaluate(arrays={**shared, **more})
        return calls[-1]["predictions"]

    own = scores(trained)
    given = scores(trained, **trained.encoders())
    np.testing.assert_array_equal(own, given)
    initial = {k: v for k, v in select(build_model(study)).items() if k.split(".")[0] in ("encoders", "adapters")}
    assert not np.array_equal(own, scores(trained, **initial))
    np.testing.assert_array_equal(own, scores(trained))  # what was sent for judging is not kept

    external = make_trainer(study, name="z", state="z")
    np.testing.assert_array_equal(scores(external), scores(external, **initial))
    assert not np.array_equal(scores(external), scores(external, **trained.encoders()))


def told(trainer: Trainer, study: Any) -> dict[str, judge.Told]:
    rows = np.arange(len(trainer._cohort))
    return judge.predict(trainer._model, trainer._batch, rows=rows, tasks=study.tasks, subsets=subsets(study))


def test_predictions_do_not_depend_on_the_other_rows(make_study: Any, make_trainer: Make, monkeypatch: Any):
    study = make_study()
    trainer = make_trainer(study)
    whole = told(trainer, study)
    monkeypatch.setattr(judge, "ROWS", 7)
    parts = told(trainer, study)
    for subset, said in whole.items():
        np.testing.assert_array_equal(parts[subset].rows, said.rows)
        for task in study.tasks:
            np.testing.assert_allclose(parts[subset].predictions[task], said.predictions[task], rtol=1e-5, atol=1e-6)
    assert not trainer._model.training
    assert torch.is_grad_enabled()


def test_the_encoders_run_once_for_all_subsets(make_study: Any, make_trainer: Make):
    """What is told of a subset is what the whole model says of rows that have only these modalities."""
    study = make_study()
    trainer = make_trainer(study)
    model, batch = trainer._model, trainer._batch
    runs = dict.fromkeys(model.encoders, 0)
    for name, encoder in model.encoders.items():
        encoder.register_forward_hook(lambda *_, name=name: runs.update({name: runs[name] + 1}))
    found = told(trainer, study)
    assert runs == {"ecg": 1, "ehr": 1}
    for subset, members in subsets(study).items():
        there = torch.stack([batch.present[m] for m in members]).any(0)
        shown = {m: row & (m in members) for m, row in batch.present.items()}
        part = take(replace(batch, present=shown), there.nonzero()[:, 0])
        with torch.no_grad():
            alone = model.predict(model(part).logits)
        np.testing.assert_array_equal(found[subset].rows, np.flatnonzero(there))
        for task in study.tasks:
            np.testing.assert_allclose(found[subset].predictions[task], alone[task], rtol=1e-5, atol=1e-6)


def test_a_subset_that_no_row_has_is_suppressed(make_study: Any, make_trainer: Make):
    study = make_study()
    trainer = make_trainer(study, name="z")
    trainer._cohort.present["ehr"][:] = False
    trainer._batch.present["ehr"][:] = False
    trainer._cohort.present["ecg"][:] = True
    trainer._batch.present["ecg"][:] = True
    rows = trainer.evaluate(arrays=select(build_model(study), study.is_shared)).evaluation
    assert {row.note for row in rows if row.modalities == "ehr"} == {"suppressed: fewer than 2 patients"}
    assert all(row.value is not None for row in rows if row.modalities == "ecg" and row.label != "mi")


FRAMES, SLICES, SIZE = 3, 2, 16
TYPES = {
    "kind": {"type": "multiclass", "labels": ["dcm", "hcm", "none"]},
    "ef": {"type": "regression", "offset": 55.0, "scale": 10.0},
    "mace": {"type": "survival", "horizon": 100.0, "bins": 5, "windows": [50.0]},
    "cause": {"type": "competing", "labels": ["cardiac", "other"], "horizon": 100.0, "bins": 5},
    "heart": {"type": "segmentation", "labels": ["lv", "myo"], "modality": "cine"},
}


def every_type(study: Study, cohort: Cohort) -> tuple[Study, Cohort]:
    """The study with a task of every type and a cine; the cohort with cines of half its rows, some drawn on."""
    body = study.model_dump(mode="json", by_alias=True)
    cine = {"kind": "cine", "frames": FRAMES, "slices": SLICES, "size": SIZE}
    body |= {"tasks": TYPES, "modalities": {"ecg": body["modalities"]["ecg"], "cine": cine}}
    rng, n = np.random.default_rng(1), len(cohort)
    days = np.stack([rng.uniform(1, 150, n), rng.integers(0, 2, n)], axis=1).astype(np.float32)
    there = (rng.random(n) < 0.5) | ~cohort.present["ecg"]
    shape = (n, FRAMES, SLICES)
    drawn = (rng.random(shape) < 0.7) & (rng.random(n) < 0.8)[:, None, None]  # on absent cines too: must not matter
    return Study.model_validate(body), replace(
        cohort,
        inputs={
            "ecg": cohort.inputs["ecg"],
            "cine": {
                "video": rng.random((*shape, SIZE, SIZE)).astype(np.float32) * there[:, None, None, None, None],
                "frame_mask": np.repeat(there[:, None], FRAMES, axis=1),
                "slice_mask": np.repeat(there[:, None], SLICES, axis=1),
                "spacing": np.tile(np.array([1.5, 2.0, 9.0], np.float32), (n, 1)),
            },
        },
        present={"ecg": cohort.present["ecg"], "cine": there},
        targets={
            "kind": rng.integers(0, 3, (n, 1)).astype(np.float32),
            "ef": rng.normal(55, 10, (n, 1)).astype(np.float32),
            "mace": days,
            "cause": np.stack([days[:, 0], rng.integers(0, 3, n)], axis=1).astype(np.float32),
            "heart": rng.integers(0, 3, (*shape, SIZE, SIZE)).astype(np.uint8),
        },
        target_mask={
            **{task: np.ones((n, 1), bool) for task in ("kind", "ef")},
            **{task: np.ones((n, 2), bool) for task in ("mace", "cause")},
            "heart": drawn,
        },
    )


def test_tasks_of_every_type_are_judged(make_study: Any, make_trainer: Make, monkeypatch: Any):
    study, cohort = every_type(make_study(), make_trainer(make_study())._cohort)
    site = make_trainer(make_study(), name="z")._site
    monkeypatch.setattr(judge, "DRAWN_ROWS", 4)
    model = build_model(study)
    batch = as_batch(cohort, device=torch.device("cpu"))
    rows = judged(judge.Judge(study=study, site=site, cohort=cohort), model, batch, name="personal").evaluation
    assert {row.model for row in rows} == {"personal"}
    assert {(row.task, row.modalities) for row in rows} == {
        *((task, subset) for task in ("kind", "ef", "mace", "cause") for subset in ("ecg", "cine", "all")),
        ("heart", "all"),
    }
    assert {(r.task, r.label, r.metric) for r in rows if r.task in ("ef", "mace", "heart")} == {
        *(("ef", "", metric) for metric in ("mae", "medae", "r2")),
        *(("mace", "", metric) for metric in ("harrell_c", "uno_c", "ibs")),
        ("mace", "50d", "uno_auc"),
        *(("heart", label, metric) for label in ("lv", "myo", "macro") for metric in ("dice", "hd95")),
    }
    assert all(row.value is not None or METRICS[row.metric].tells_events for row in rows)
    assert {row.n for row in rows if row.task == "heart"} == {
        int((cohort.present["cine"] & cohort.target_mask["heart"].any((1, 2))).sum())
    }


def test_segmentations_are_counted_where_somebody_drew(make_study: Any, make_trainer: Make, monkeypatch: Any):
    """Against a loop over all voxels of the model's own label maps."""
    study, cohort = every_type(make_study(), make_trainer(make_study())._cohort)
    monkeypatch.setattr(judge, "DRAWN_ROWS", 5)
    model, batch = build_model(study).eval(), as_batch(cohort, device=torch.device("cpu"))
    tasks = {"heart": study.tasks["heart"]}
    said = judge.segment(model, batch, rows=np.arange(len(cohort)), tasks=tasks)
    with torch.no_grad():
        maps = model.predict(model.segment(take(batch, said.rows)))["heart"].numpy()
    truth, drawn = cohort.targets["heart"][said.rows], cohort.target_mask["heart"][said.rows]
    for k in range(len(said.rows)):
        assert cohort.present["cine"][said.rows[k]] and drawn[k].any()
        for c in range(2):
            guess, true = maps[k][drawn[k]] == c + 1, truth[k][drawn[k]] == c + 1
            assert said.predictions["heart"][k, c].tolist()[:2] == [guess.sum(), (guess & true).sum()]
            assert said.targets["heart"][k, c] == true.sum()
            far = []
            for frame in np.flatnonzero(drawn[k].any(1)):
                masks = [(m[k][frame] == c + 1) & drawn[k][frame][:, None, None] for m in (maps, truth)]
                within = slice(drawn[k][frame].argmax(), SLICES - drawn[k][frame][::-1].argmax())
                far.append(hausdorff_95(*(mask[within] for mask in masks), (9.0, 1.5, 2.0)))
            known = [each for each in far if np.isfinite(each)]
            np.testing.assert_allclose(said.predictions["heart"][k, c, 2:], [sum(known), len(known)])
    assert said.predictions["heart"].any()


def test_real_metrics_come_out(make_study: Any, make_trainer: Make):
    study = make_study()
    rows = make_trainer(study, name="z").evaluate(arrays=select(build_model(study), study.is_shared)).evaluation
    assert {row.modalities for row in rows} == {"ecg", "ehr", "all"}
    assert {(row.task, row.label) for row in rows} >= {("death", ""), ("mace", "mi"), ("mace", "hf"), ("mace", "macro")}
