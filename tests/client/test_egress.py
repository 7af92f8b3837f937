from __future__ import annotations

import numpy as np
import pytest

from fl_client.egress import Egress, EgressRefusedError, schema_bytes
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.results import Curve, EvaluationRow
from fl_shared.study import load_study
from fl_shared.wire import Code, digest, from_npy

SCHEMA = {"heads.death.bias": ((2,), "float32")}
GOOD = {"heads.death.bias": np.ones(2, np.float32)}


@pytest.fixture
def gate(make_site) -> Egress:
    site = make_site()
    site.state_dir.mkdir()
    return Egress(site)


@pytest.fixture
def study(write_study):
    return load_study(write_study())


def row(**changes) -> EvaluationRow:
    body = {
        "site": "drum_tower", "role": "train", "task": "death", "label": "", "modalities": "all", "model": "federated",
        "metric": "auroc", "value": 0.7, "ci_low": 0.6, "ci_high": 0.8, "n": 50, "events": 20,
    }  # fmt: skip
    return EvaluationRow.model_validate(body | changes)


def curve(**changes) -> Curve:
    body = {"site": "drum_tower", "task": "death", "label": "", "modalities": "all", "kind": "roc"}
    return Curve.model_validate(body | {"x": (0.0, 1.0), "y": (0.0, 1.0)} | changes)


def metrics(gate, study, rows, curves=()):
    return gate.release_metrics(rows, curves, study=study, round=1, min_patients=10)


def test_release_is_logged_before_it_leaves(gate, study) -> None:
    out = gate.release_arrays(GOOD, kind="train", study=study, round=1, schema=SCHEMA, byte_budget=schema_bytes(SCHEMA))
    assert from_npy(out["heads.death.bias"]).tolist() == [1.0, 1.0]
    (entry,) = gate.log.rows()
    assert (entry["study"], entry["round"], entry["sha256"]) == (study.identity, 1, digest(GOOD))
    assert entry["bytes"] == sum(map(len, out.values()))


@pytest.mark.parametrize(
    ("arrays", "code"),
    [
        (GOOD | {"extra": np.ones(1, np.float32)}, Code.EGRESS),
        ({}, Code.EGRESS),
        ({"heads.death.bias": np.ones((2, 1), np.float32)}, Code.EGRESS),
        ({"heads.death.bias": np.ones(2, np.float64)}, Code.EGRESS),
        ({"heads.death.bias": np.array([1, np.nan], np.float32)}, Code.NOT_FINITE),
        ({"heads.death.bias": np.array([1, np.inf], np.float32)}, Code.NOT_FINITE),
    ],
)
def test_arrays_outside_the_schema_stay(gate, study, arrays, code) -> None:
    with pytest.raises(EgressRefusedError) as error:
        gate.release_arrays(arrays, kind="train", study=study, round=1, schema=SCHEMA, byte_budget=10**6)
    assert error.value.code is code
    assert list(gate.log.rows()) == []


def test_byte_budget(gate, study) -> None:
    with pytest.raises(EgressRefusedError):
        gate.release_arrays(GOOD, kind="train", study=study, round=1, schema=SCHEMA, byte_budget=100)


@pytest.mark.parametrize(
    "good",
    [
        row(),
        row(n=None, events=None, value=None, ci_low=None, ci_high=None, note="suppressed: fewer than 10 patients"),
        row(events=None, note="events withheld: fewer than 10 patients with, or without, the event; "
            "7% of resamples had a single class and were left out"),
        row(label="macro", events=None, modalities="ehr"),
        row(events=10, n=20),
    ],
)  # fmt: skip
def test_rows_that_may_leave(gate, study, good) -> None:
    assert metrics(gate, study, [good]) == ((good,), ())


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (row(site="other"), Code.EGRESS),
        (row(role="external"), Code.EGRESS),
        (row(task="los"), Code.EGRESS),
        (row(label="patient 7"), Code.EGRESS),
        (row(modalities="ehr+cine"), Code.EGRESS),
        (row(model="Zhang San"), Code.EGRESS),
        (row(note="patient Zhang San"), Code.EGRESS),
        (row(note="mean of 1 of 2 labels, without Zhang"), Code.EGRESS),
        (row(value=1.5), Code.EGRESS),
        (row(n=9, events=None), Code.TOO_FEW),
        (row(n=None, events=None), Code.TOO_FEW),
        (row(n=None, value=None, ci_low=None, ci_high=None), Code.TOO_FEW),
        (row(events=9), Code.TOO_FEW),
        (row(events=41), Code.TOO_FEW),
    ],
)
def test_rows_that_stay(gate, study, bad, code) -> None:
    with pytest.raises(EgressRefusedError) as error:
        metrics(gate, study, [row(), bad])
    assert error.value.code is code
    assert list(gate.log.rows()) == []


@pytest.mark.parametrize(
    "bad",
    [
        curve(site="other"),
        curve(modalities="cine"),
        curve(label="macro"),  # no value was released for it
        curve(x=(0.0,)),
        curve(x=(), y=()),
        curve(x=(0.0, 2.0)),
        curve(x=tuple(np.linspace(0, 1, 102)), y=tuple(np.linspace(0, 1, 102))),
    ],
)
def test_curves_that_stay(gate, study, bad) -> None:
    assert metrics(gate, study, [row()], [curve()])[1] == (curve(),)
    with pytest.raises(EgressRefusedError):
        metrics(gate, study, [row()], [bad])


@pytest.mark.parametrize("n", [5, 12, 60, 300])
def test_what_the_evaluation_makes_passes_the_gate(gate, write_study, n) -> None:
    labels = ["norm", "cd", "rare"]
    path = write_study(extra='[tasks.ecg]\ntype = "multilabel"\nlabels = ["norm", "cd", "rare"]\n')
    random = np.random.default_rng(n)
    targets = (random.random((n, 3)) < [0.5, 0.2, 0.01]).astype(float)
    rows, curves = evaluate_predictions(
        site="drum_tower", role="train", task="ecg", labels=labels, headline=labels, modalities="all",
        model="federated", scores=(targets + random.random((n, 3))) / 2, targets=targets,
        mask=random.random((n, 3)) < 0.9, patients=np.arange(n), bootstrap=100, seed=1, min_patients=10,
    )  # fmt: skip
    released = metrics(gate, load_study(path), rows, curves)
    assert released == (tuple(rows), tuple(curves))
    assert bool(curves) == (n >= 60)
