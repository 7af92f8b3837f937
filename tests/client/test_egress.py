from __future__ import annotations

import numpy as np
import pytest

from fl_client.egress import Egress, EgressRefusedError, schema_bytes
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.results import (
    Attention,
    Contribution,
    Curve,
    Described,
    Difference,
    EvaluationRow,
    Findings,
    Flow,
    Importance,
)
from fl_shared.study import load_study
from fl_shared.wire import Code, Mark, Reply, digest, from_npy

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
    found = Findings(evaluation=tuple(rows), curves=tuple(curves))
    released = gate.release_findings(found, study=study, round=1, min_patients=10)
    return released.evaluation, released.curves


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
            "7% of resamples were left out: not defined on them"),
        row(label="macro", events=None),
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
        (row(modalities="ehr"), Code.EGRESS),  # of one modality: told as 'all'
        (row(modalities="ehr+cine"), Code.EGRESS),
        (row(model="Zhang San"), Code.EGRESS),
        (row(model="Zhang_San"), Code.EGRESS),
        (row(modalities="ehr+ehr"), Code.EGRESS),
        (row(value=0.71234567), Code.EGRESS),  # more digits than a metric is told with
        (row(ci_high=0.8000001), Code.EGRESS),
        (row(value=0.71), Code.EGRESS),  # the same metric a second time
        (
            row(note="7% of resamples were left out: not defined on them; " * 2 + "not defined on these patients"),
            Code.EGRESS,
        ),
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
        curve(kind="bands", day=30.0, x=(0.1, 0.2, 0.3), y=(0.1, 0.2, 0.3)),  # a binary task has no windows
        curve(day=30.0),
        curve(x=(0.0, 0.12345)),
    ],
)
def test_curves_that_stay(gate, study, bad) -> None:
    assert metrics(gate, study, [row()], [curve()])[1] == (curve(),)
    with pytest.raises(EgressRefusedError):
        metrics(gate, study, [row()], [bad])


def test_results_of_one_thing_leave_once(gate, study) -> None:
    with pytest.raises(EgressRefusedError):
        metrics(gate, study, [row()], [curve(), curve(y=(0.0, 0.9))])


def test_metrics_have_a_byte_budget(gate, study, monkeypatch) -> None:
    assert metrics(gate, study, [row()])
    monkeypatch.setattr("fl_client.egress.METRICS_BYTES", 100)
    with pytest.raises(EgressRefusedError, match="bytes exceed"):
        metrics(gate, study, [row()])


def test_a_reply_has_no_room_for_free_text() -> None:
    """Every field of a reply, and of what it holds, is of a kind that the gate or a fixed list decides."""
    decided = {
        Reply: {
            "status", "code", "site", "role", "package", "approved", "epsilon", "ledger", "evaluation", "curves",
            "differences", "contributions", "importance", "attention", "described", "flow",
        },
        EvaluationRow: {
            "site", "role", "task", "label", "modalities", "model", "subgroup", "metric", "value", "ci_low", "ci_high",
            "n", "events", "note",
        },
        Curve: {"site", "task", "label", "modalities", "model", "kind", "day", "group", "x", "y", "counts"},
        Difference: {
            "site", "role", "task", "label", "modalities", "model", "against", "metric", "value", "ci_low", "ci_high",
            "p", "test", "n", "note",
        },
        Contribution: {
            "site", "role", "task", "label", "model", "metric", "modality", "value", "ci_low", "ci_high", "n", "note",
        },
        Importance: {
            "site", "role", "task", "label", "model", "metric", "group", "value", "ci_low", "ci_high", "n", "note",
        },
        Attention: {"site", "role", "model", "modality", "value", "ci_low", "ci_high", "n", "note"},
        Described: {"site", "variable", "category", "statistic", "value", "note"},
        Flow: {"site", "stage", "samples", "patients"},
        Mark: {"seq", "hash"},
    }  # fmt: skip
    for model, fields in decided.items():
        new = set(model.model_fields) - fields
        assert not new, f"{model.__name__}.{new}: let the gate decide on it, then name it here"


EVERY_TYPE = """
[tasks.ecg]
type = "multilabel"
labels = ["norm", "cd", "rare"]
[tasks.kind]
type = "multiclass"
labels = ["dcm", "hcm", "none"]
[tasks.ef]
type = "regression"
[tasks.mace]
type = "survival"
horizon = 100.0
bins = 4
windows = [30.0, 90.0]
[tasks.cause]
type = "competing"
labels = ["cardiac", "other"]
horizon = 100.0
bins = 4
[tasks.heart]
type = "segmentation"
labels = ["lv", "myo"]
modality = "cine"
[modalities.cine]
kind = "cine"
"""


@pytest.fixture
def every_type(write_study):
    return load_study(write_study(extra=EVERY_TYPE))


def timed(label, **changes):
    metric = "uno_auc" if label else "harrell_c"
    return row(task="mace", label=label, metric=metric, n=200, **changes)


@pytest.mark.parametrize(
    "good",
    [
        [row(task="ef", metric="mae", value=1234.0, ci_low=900.0, ci_high=1500.0, events=None)],
        [row(task="ef", metric="r2", value=-3.0, ci_low=-9.0, ci_high=0.1, events=None)],
        [row(task="ef", metric="r2", value=None, ci_low=None, ci_high=None, events=None,
             note="not defined on these patients")],
        [timed("", events=60), timed("90d", events=50), timed("30d", events=40)],
        [timed("90d", events=None, note="events withheld: they would tell a cell of fewer than 10 patients")],
        [timed("", value=None, ci_low=None, ci_high=None, events=None,
               note="not defined: fewer than 2 patients with the event")],
        [row(task="kind", label="dcm", events=20), row(task="kind", label="hcm", events=20),
         row(task="kind", label="none", events=10)],
        [row(task="cause", metric="harrell_c", label="cardiac", events=20),
         row(task="cause", metric="harrell_c", label="other", events=20)],
        [row(task="heart", metric="dice", label="myo", events=None)],
    ],
)  # fmt: skip
def test_rows_of_every_type_that_may_leave(gate, every_type, good) -> None:
    assert metrics(gate, every_type, good) == (tuple(good), ())


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        ([row(task="ef", events=None)], Code.EGRESS),  # an AUROC of a number
        ([row(metric="mae")], Code.EGRESS),
        ([row(task="ef", metric="mae", value=-1.0, ci_low=None, ci_high=None, events=None)], Code.EGRESS),
        ([row(task="ef", metric="r2", value=1.2, ci_low=None, ci_high=None, events=None)], Code.EGRESS),
        ([timed("60d", events=None)], Code.EGRESS),
        ([timed("time", events=None)], Code.EGRESS),
        ([row(task="heart", metric="dice", label="rv", events=None)], Code.EGRESS),
        ([timed("", events=60), timed("90d", events=51)], Code.TOO_FEW),
        ([timed("", events=60), timed("30d", events=60)], Code.TOO_FEW),  # nobody in between is a number too
        ([row(task="kind", label="dcm", events=20), row(task="kind", label="hcm", events=21)], Code.TOO_FEW),
        ([row(task="cause", metric="harrell_c", label="cardiac", events=25),
          row(task="cause", metric="harrell_c", label="other", events=25)], Code.TOO_FEW),
        ([row(), row(metric="brier", events=21)], Code.TOO_FEW),
    ],
)  # fmt: skip
def test_rows_of_every_type_that_stay(gate, every_type, bad, code) -> None:
    with pytest.raises(EgressRefusedError) as error:
        metrics(gate, every_type, bad)
    assert error.value.code is code
    assert list(gate.log.rows()) == []


def bands(**changes):
    body = {"task": "mace", "label": "90d", "kind": "bands", "day": 90.0}
    return curve(**(body | {"x": (0.05, 0.2, 0.5), "y": (0.0, 0.3, 0.4)} | changes))


def test_bands_that_may_leave(gate, every_type) -> None:
    rows = [timed("", events=60), timed("90d", events=40), row(task="cause", metric="harrell_c", label="cardiac")]
    other = bands(task="cause", label="cardiac", day=100.0)
    for curves in ([bands(), other], [bands(x=(0.2, 0.2, 0.2)), other]):
        assert metrics(gate, every_type, rows, curves)[1] == tuple(curves)


@pytest.mark.parametrize(
    "bad",
    [
        bands(day=30.0),
        bands(day=None),
        bands(label=""),
        bands(label="30d", day=30.0),  # its events were not told
        bands(x=(0.05, 0.2), y=(0.0, 0.3)),
        bands(x=(0.5, 0.2, 0.05)),
        bands(y=(0.0, 0.3, 1.2)),
        bands(kind="roc", day=None),
        bands(task="cause", label="cardiac", day=90.0),  # told at its horizon only
        bands(task="cause", label="other", day=100.0),
    ],
)
def test_bands_that_stay(gate, every_type, bad) -> None:
    rows = [timed("", events=60), timed("90d", events=40), timed("30d", events=None), row(
        task="cause", metric="harrell_c", label="cardiac")]  # fmt: skip
    with pytest.raises(EgressRefusedError):
        metrics(gate, every_type, rows, [bad])


def invented(plan, n, random):
    """Predictions and targets of any type, better than chance; three labels of very different size."""
    risk = random.random(n)
    days = np.stack([random.exponential(80, n) * (1.5 - risk), random.random(n) < 0.7], axis=1)
    match plan.type:
        case "binary" | "multilabel":
            targets = random.random((n, len(plan.told))) < [0.5, 0.2, 0.01][: len(plan.told)]
            return (targets + random.random(targets.shape)) / 2, targets
        case "multiclass":
            return random.dirichlet([1, 1, 1], n), random.choice(3, (n, 1), p=[0.6, 0.35, 0.05])
        case "regression":
            return risk[:, None], risk[:, None] + random.normal(0, 1, (n, 1))
        case "survival":
            return np.cumsum(np.repeat(risk[:, None], 4, axis=1), axis=1) / 4, days
        case "competing":
            causes = np.where(days[:, 1] > 0, 1 + (random.random(n) < 0.1), 0)
            return random.random((n, 4, 2)), np.stack([days[:, 0], causes], axis=1)
    drawn = random.integers(0, 9, (n, 2)) + 1.0
    return np.stack([drawn + 1, drawn / 2, drawn, np.ones_like(drawn)], axis=-1), drawn


@pytest.mark.parametrize("n", [5, 12, 60, 300])
@pytest.mark.parametrize("task", ["death", "ecg", "kind", "ef", "mace", "cause", "heart"])
def test_what_the_evaluation_makes_passes_the_gate(gate, every_type, task, n) -> None:
    plan, random = every_type.tasks[task], np.random.default_rng(n)
    predictions, targets = invented(plan, n, random)
    rows, curves = evaluate_predictions(
        site="drum_tower", role="train", task=task, plan=plan, modalities="all", model="federated",
        predictions=predictions, targets=targets.astype(float), patients=np.arange(n),
        mask=np.repeat(random.random((n, 1)) < 0.9, targets.shape[1], axis=1), bootstrap=100, seed=1, min_patients=10,
    )  # fmt: skip
    assert metrics(gate, every_type, rows, curves) == (tuple(rows), tuple(curves))
    assert n == 12 or any(row.value is not None for row in rows) == (n >= 60)
    drawn = {"death": 60, "ecg": 60, "kind": 300, "mace": 60, "cause": 300}  # at 60 one kind has 3 patients
    assert bool(curves) == (n >= drawn.get(task, 999))
