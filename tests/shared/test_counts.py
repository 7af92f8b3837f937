"""The layout of counts: names, shapes, cells, sensitivities; and which studies cannot count."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fl_shared.concepts import concept, scale
from fl_shared.counts import (
    FieldCount,
    leaving,
    output_biases,
    recalibration_schema,
    recalibration_sensitivity,
    risk_schema,
    risk_sensitivity,
    statistics_schema,
    statistics_sensitivity,
)
from fl_shared.study import Study

BODY: dict[str, Any] = {
    "schema": 1,
    "name": "counting",
    "seed": 1,
    "sites": {"bern": {"role": "train", "patients": 100}},
    "tasks": {
        "death": {"type": "binary"},
        "events": {"type": "multilabel", "labels": ["af", "hf", "mi"]},
        "course": {"type": "multiclass", "labels": ["home", "ward"]},
        "stay": {"type": "regression"},
    },
    "modalities": {
        "ehr": {"kind": "table", "fields": ["age", "sex", "creatinine"]},
        "series": {"kind": "events", "fields": ["sbp"], "hours": 48.0},
        "notes": {"kind": "text", "leaky": True},
    },
    "training": {"rounds": 1, "steps": 1, "batch": 10},
    "privacy": {"mode": "none"},
    "rounds": {"quorum": 1},
    "evaluation": {"salt": "saltsaltsalt"},
    "statistics": {"modalities": ["ehr", "series"], "tasks": ["death", "events", "course"]},
}


def study(**sections: Any) -> Study:
    body = {**BODY, **{key: {**BODY.get(key, {}), **value} for key, value in sections.items()}}
    return Study.model_validate(body)


def test_the_layout_of_statistics() -> None:
    schema = statistics_schema(study())
    assert schema == {
        "fields.ehr.age": ((67,), "int64"),
        "fields.ehr.sex": ((3,), "int64"),
        "fields.ehr.creatinine": ((67,), "int64"),
        "fields.series.sbp": ((67,), "int64"),
        "tasks.death": ((1, 3), "int64"),
        "tasks.events": ((3, 3), "int64"),
        "tasks.course": ((3,), "int64"),
    }
    assert statistics_sensitivity(study()) ** 2 == pytest.approx(4 + 1 + 3 + 1)


def test_cells_of_quantities_and_codes() -> None:
    creatinine, sex = (FieldCount(modality="ehr", concept=concept(name)) for name in ("creatinine", "sex"))
    values = np.array([15.0, 3000.0, 88.0, 999.0])
    cells = creatinine.cells(scale(values, by=creatinine.concept).astype(float), np.array([True, True, True, False]))
    expected = 1 + int(64 * np.log(88 / 15) / np.log(3000 / 15))  # equal on the logarithm over the plausible range
    assert cells.tolist() == [1, 64, expected, 66]
    scaled = scale(np.array([0.0, 1.0, 1.0]), by=sex.concept).astype(float)
    assert sex.cells(scaled, np.array([True, True, False])).tolist() == [0, 1, 2]
    gcs = FieldCount(modality="ehr", concept=concept("gcs_eye"))
    assert gcs.size == 5
    eyes = scale(np.array([1.0, 2.0, 3.4, 4.0]), by=gcs.concept).astype(float)
    assert gcs.cells(eyes, np.ones(4, bool)).tolist() == [0, 1, 2, 3]


def test_the_layout_of_recalibration_and_of_noised_risks() -> None:
    names = ["fusion.a", "heads.death.linear.bias", "heads.events.linear.out.bias", "heads.stay.linear.bias"]
    biases = output_biases(study(), names)
    assert biases == {"death": "heads.death.linear.bias", "events": "heads.events.linear.out.bias"}
    assert output_biases(study(), ["heads.death.linear.weight"]) == {}
    assert recalibration_schema(study(), biases) == {
        "tasks.death": ((1, 67), "int64"), "tasks.events": ((3, 67), "int64")
    }  # fmt: skip
    assert recalibration_sensitivity(study(), biases) ** 2 == pytest.approx(2 * 4)
    schema = risk_schema(study())
    assert set(schema) == {
        f"risks.{t}.{s}" for t in ("death", "events") for s in (*BODY["modalities"], "all", "headline")
    }
    assert schema["risks.events.all"] == ((3, 2, 50), "int64")
    assert risk_sensitivity(study()) ** 2 == pytest.approx(4 * 5)


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"statistics": {"modalities": ["echo"]}}, "statistics.modalities = 'echo': no table or events of this name"),
        ({"statistics": {"modalities": ["notes"]}}, "statistics.modalities = 'notes'"),
        ({"statistics": {"modalities": ["ehr", "ehr"]}}, "named twice"),
        ({"statistics": {"tasks": ["stay"]}}, "statistics.tasks = 'stay': no binary, multilabel or multiclass task"),
        ({"statistics": {"tasks": [], "modalities": []}}, "statistics: it names nothing to count"),
        ({"evaluation": {"recalibrate": True}, "tasks": {"only": True}}, "evaluation.recalibrate: it is of binary"),
        ({"evaluation": {"epsilon": 2.0}, "tasks": {"only": True}}, "evaluation.epsilon: it is of binary"),
        ({"privacy": {"mode": "site", "epsilon": 8.0}, "statistics": {"epsilon": 1.0}}, "statistics: a whole site may"),
    ],
)
def test_what_cannot_be_counted_is_refused_with_its_reason(sections: dict[str, Any], told: str) -> None:
    body = {**BODY, **{key: {**BODY.get(key, {}), **value} for key, value in sections.items()}}
    if "tasks" in sections:
        body |= {"tasks": {"stay": {"type": "regression"}}, "statistics": {"modalities": ["ehr"], "tasks": []}}
    with pytest.raises(ValueError) as error:
        Study.model_validate(body)
    assert told in str(error.value)


def test_what_leaves_is_told_to_who_approves() -> None:
    plain = study(evaluation={"recalibrate": True})
    assert leaving(plain, "train") == (
        "counts of training patients: histograms of 4 fields and death, events, course (once, before round 1; exact, "
        "small cells withheld)",
        "counts of training patients' predicted risks and events (once, after the last round; exact, small cells "
        "withheld)",
        "metrics and curves (aggregates)",
    )
    asking = study(evaluation={"subgroups": ["age", "sex"], "described": True})
    assert leaving(asking, "external")[1:] == (
        "metrics of groups by age, sex (10 patients or more)",
        "Table 1 and the flow of the judged patients (aggregates)",
    )
    noised = study(
        privacy={"mode": "patient", "epsilon": 8.0},
        statistics={"epsilon": 1.0},
        evaluation={"recalibrate": True, "recalibrate_epsilon": 0.5, "epsilon": 3.0},
    )
    told = leaving(noised, "train")
    assert [text.rpartition("; ")[2] for text in told[:2]] == ["noised: epsilon 1)", "noised: epsilon 0.5)"]
    assert leaving(noised, "external") == ("metrics (noised: epsilon 3 of the judged patients)",)
