from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from fl_client.data.findings import Findings
from fl_client.data.labels import outcome_before_index, read_labels, task_columns
from fl_shared.site import Site
from fl_shared.study import TaskPlan


def site(**tasks: dict) -> Site:
    return Site.model_validate({"schema": 1, "name": "drum_tower", "tasks": tasks})


def read(table: dict[str, list[str]], plan: TaskPlan, **mapped):
    findings, at = Findings(), site(outcome=mapped)
    task_columns(at, {"outcome": plan}, findings=findings)
    frame = pd.DataFrame(table)
    targets, masks = read_labels(frame, site=at, tasks={"outcome": plan}, file="samples.csv", findings=findings)
    return targets["outcome"], masks["outcome"], findings


def test_regression_reads_numbers_and_names_words() -> None:
    plan = TaskPlan(type="regression")
    values, mask, findings = read({"los": ["3.5", "", "12"]}, plan, columns={"value": "los"})
    assert values[:, 0].tolist() == [3.5, 0, 12]
    assert mask[:, 0].tolist() == [True, False, True]
    assert not findings.rejects
    _, _, findings = read({"los": ["3.5", "long", "3,5"]}, plan, columns={"value": "los"})
    assert [(fault.row, fault.value) for fault in findings.rejects] == [(3, "'long'"), (4, "'3,5'")]


def test_multiclass_is_the_number_of_the_studys_label() -> None:
    plan = TaskPlan(type="multiclass", labels=("none", "cardiac", "other"))
    values, mask, _ = read({"cause": ["cardiac", "none", "", "other"]}, plan, columns={"value": "cause"})
    assert values[:, 0].tolist() == [1, 0, 0, 2]
    assert mask[:, 0].tolist() == [True, True, False, True]
    coded = {"H": "cardiac", "A": "other", "0": "none"}
    values, _, findings = read({"cause": ["A", "H", "0", "X"]}, plan, columns={"value": "cause"}, classes=coded)
    assert values[:3, 0].tolist() == [2, 1, 0]
    assert [fault.value for fault in findings.rejects] == ["'X'"]
    _, _, findings = read({"cause": ["A"]}, plan, columns={"value": "cause"}, classes={"A": "cancer"})
    assert any(f.value == "cancer" and f.key == "tasks.outcome.classes" for f in findings.rejects)


@pytest.mark.parametrize(("unit", "days"), [("d", 1), ("wk", 7), ("mo", 30.4375), ("a", 365.25), (None, 1)])
def test_survival_times_become_days(unit: str | None, days: float) -> None:
    plan, columns = TaskPlan(type="survival"), {"time": "t", "event": "e"}
    table = {"t": ["2", "4", "5", ""], "e": ["1", "0", "", "1"]}
    values, mask, findings = read(table, plan, columns=columns, unit=unit)
    np.testing.assert_allclose(values[:2], [[2 * days, 1], [4 * days, 0]], rtol=1e-6)
    assert mask.tolist() == [[True, True], [True, True], [False, False], [False, False]]
    assert findings.repairs["outcome: time or event missing, both set missing"] == 2


COMPETING = TaskPlan(type="competing", labels=("cardiac", "other"))


def test_a_cause_is_the_number_of_its_label_from_1_and_none_beside_a_time_is_censored() -> None:
    columns, coded = {"time": "t", "cause": "c"}, {"H": "cardiac", "A": "other", "L": "none"}
    table = {"t": ["2", "4", "5", "6", "", ""], "c": ["A", "H", "", "L", "H", ""]}
    values, mask, findings = read(table, COMPETING, columns=columns, classes=coded, unit="wk")
    assert values[:4].tolist() == [[14, 2], [28, 1], [35, 0], [42, 0]]
    assert mask.tolist() == [[True, True]] * 4 + [[False, False]] * 2
    assert findings.repairs["outcome: time or cause missing, both set missing"] == 1 and not findings.rejects
    values, _, _ = read({"t": ["2", "3"], "c": ["other", "cardiac"]}, COMPETING, columns=columns)
    assert values[:, 1].tolist() == [2, 1]


def test_faults_of_competing_causes_are_named() -> None:
    columns = {"time": "t", "cause": "c"}
    _, _, findings = read({"t": ["2", "x"], "c": ["X", "cardiac"]}, COMPETING, columns=columns)
    assert [(f.key, f.value) for f in findings.rejects] == [("t", "'x'"), ("c", "'X'")]
    _, _, findings = read({"t": ["2"], "c": ["H"]}, COMPETING, columns=columns, classes={"H": "heart"}, unit="days")
    assert [(f.key, f.value) for f in findings.rejects][:2] == [
        ("tasks.outcome.unit", "days"),
        ("tasks.outcome.classes", "heart"),
    ]
    _, _, findings = read({"t": ["2"]}, COMPETING, columns={"time": "t"})
    assert [f.key for f in findings.rejects] == ["tasks.outcome.columns.cause"]


def test_an_unknown_unit_of_time_is_a_reject() -> None:
    _, _, findings = read(
        {"t": ["2"], "e": ["1"]}, TaskPlan(type="survival"), columns={"time": "t", "event": "e"}, unit="days"
    )
    assert [(f.key, f.value) for f in findings.rejects] == [("tasks.outcome.unit", "days")]


def test_the_sites_type_must_be_the_studys() -> None:
    _, _, findings = read({"x": ["1"]}, TaskPlan(type="binary"), columns={"value": "x"}, type="regression")
    assert [(f.key, f.value) for f in findings.rejects] == [("tasks.outcome.type", "regression")]


def test_an_outcome_before_the_index_time() -> None:
    at = site(outcome={"columns": {"time": "t", "event": "e"}})
    frame = pd.DataFrame({"t": ["-3", "0", "1", "", "x"], "e": ["1"] * 5}, index=[4, 3, 2, 1, 0])
    early = outcome_before_index(frame, site=at, tasks={"outcome": TaskPlan(type="survival")})
    assert early.tolist() == [True, True, False, False, False]
    assert outcome_before_index(frame, site=at, tasks={"outcome": COMPETING}).tolist() == early.tolist()
    assert not outcome_before_index(frame, site=at, tasks={"outcome": TaskPlan(type="binary")}).any()
