"""What would stand in a variant's study.toml."""

from __future__ import annotations

from copy import deepcopy

import pytest

from fl_server.comparison.bodies import chosen, dropped, merged, with_privacy, without_privacy
from fl_server.comparison.plan import Change

BODY = {
    "tasks": {"death": {"type": "binary"}, "scar": {"type": "segmentation", "modality": "cine"}},
    "modalities": {
        "cine": {"kind": "cine"},
        "ecg": {"kind": "waveform"},
        "ehr": {"kind": "table", "fields": ["age", "sex", "sbp"]},
    },
    "model": {"guide": "cine", "shares": {"cine": 0.5, "ehr": 0.5}, "levels": {"ecg": 1}},
    "training": {
        "rounds": 6,
        "unpaired": 0.5,
        "phases": [
            {"name": "masks", "rounds": 1, "objective": "segmentation", "trains": ["encoders.cine", "heads.scar"]},
            {"name": "series", "rounds": 2, "objective": "masked", "trains": ["encoders.ecg", "heads.masked@ecg"]},
            {"name": "all", "rounds": 3, "trains": ["encoders.cine", "encoders.ehr", "fusion", "heads.death@ecg"]},
        ],
    },
    "statistics": {"modalities": ["ehr"], "tasks": ["death"], "epsilon": 0.5},
    "privacy": {"mode": "patient", "epsilon": 4.0, "aggregation": "secure", "noise": "distributed", "clip": 0.5},
    "evaluation": {
        "recalibrate": True,
        "recalibrate_epsilon": 0.5,
        "hidden": [0.5],
        "hidden_of": ["ecg"],
        "subgroups": ["age", "paired"],
        "feature_groups": {"vitals": ["sbp"], "who": ["age", "sex"]},
    },
}


def test_tables_are_merged_and_all_else_is_replaced() -> None:
    old = deepcopy(BODY)
    made = merged(BODY, {"model": {"guide": "ecg", "width": 8}, "tasks": {"death": {"weight": 2.0}}, "seed": 3})
    assert made["model"] == {**BODY["model"], "guide": "ecg", "width": 8} and made["seed"] == 3
    assert (
        made["tasks"]["death"] == {"type": "binary", "weight": 2.0} and made["tasks"]["scar"] == BODY["tasks"]["scar"]
    )
    assert merged(BODY, {"training": {"phases": []}})["training"]["phases"] == []
    assert old == BODY  # untouched


def test_what_names_a_dropped_modality_goes_with_it() -> None:
    made = dropped(BODY, ["ecg", "ehr"])
    assert list(made["modalities"]) == ["ecg", "ehr"] and list(made["tasks"]) == ["death"]
    assert made["model"] == {"shares": {"ehr": 0.5}, "levels": {"ecg": 1}}
    assert [(phase["name"], phase["trains"]) for phase in made["training"]["phases"]] == [
        ("series", ["encoders.ecg", "heads.masked@ecg"]),
        ("all", ["encoders.ehr", "fusion", "heads.death@ecg"]),
    ]
    assert made["training"]["rounds"] == 5 and made["evaluation"] == BODY["evaluation"]
    assert dropped(BODY, BODY["modalities"]) == BODY


def test_of_one_modality_nothing_is_hidden_or_paired() -> None:
    made = dropped(BODY, ["ehr"])
    assert "unpaired" not in made["training"] and [p["name"] for p in made["training"]["phases"]] == ["all"]
    assert made["training"]["phases"][0]["trains"] == ["encoders.ehr", "fusion"] and made["training"]["rounds"] == 3
    evaluation = made["evaluation"]
    assert "hidden" not in evaluation and "hidden_of" not in evaluation and evaluation["subgroups"] == ["age"]
    assert evaluation["feature_groups"] == BODY["evaluation"]["feature_groups"]
    alone = dropped(BODY, ["ecg"])
    assert alone["evaluation"]["feature_groups"] == {} and alone["statistics"]["modalities"] == []
    assert "statistics" not in dropped(BODY | {"statistics": {"modalities": ["ehr"]}}, ["ecg"])


def test_a_headline_of_one_modality_has_none_to_hide() -> None:
    leaky = deepcopy(BODY)
    leaky["modalities"]["ehr"]["leaky"] = True
    assert "hidden" not in dropped(leaky, ["ecg", "ehr"])["evaluation"]


def test_kept_is_what_every_choice_keeps() -> None:
    changes = (Change(only=("ecg", "ehr")), Change(), Change(only=("ehr", "cine")))
    assert chosen(changes, ["cine", "ecg", "ehr"]) == ["ehr"]


def test_without_privacy_nothing_is_paid_or_hidden() -> None:
    made = without_privacy(BODY)
    assert made["privacy"] == {"mode": "none", "clip": 0.5}
    assert made["statistics"] == {"modalities": ["ehr"], "tasks": ["death"]}
    assert "recalibrate_epsilon" not in made["evaluation"] and made["evaluation"]["recalibrate"]


@pytest.mark.parametrize("changed", [{"privacy": {"epsilon": 99.0, "mode": "site"}}, {}])
def test_the_epsilon_of_a_mode_is_the_modes(changed: dict) -> None:
    made = with_privacy(BODY, epsilon=8.0, changes=[{"privacy": {"clip": 2.0}}, {"training": {"steps": 5}}, changed])
    assert made["privacy"] == {**BODY["privacy"], "epsilon": 8.0, "mode": "patient", "clip": 2.0}
    assert made["training"]["steps"] == 5
