"""How a study is judged and which samples it trains on, where that cannot be meant: told by key, value and mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fl_shared import toml
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.study import Study
from fl_shared.subgroups import subgroup_fits

ECG = {"kind": "waveform", "leads": ["I"], "rate": 50, "seconds": 2}
EHR = {"kind": "table", "fields": ["age", "sex", "creatinine"]}


def body(
    evaluation: dict[str, Any], training: dict[str, Any], modalities: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "schema": 1,
        "name": "x",
        "seed": 1,
        "sites": {"a": {"role": "train", "patients": 40}},
        "tasks": {"death": {"type": "binary"}},
        "modalities": {"ecg": ECG, "ehr": EHR} if modalities is None else modalities,
        "training": {"rounds": 4, "steps": 3, "batch": 4} | training,
        "privacy": {"mode": "none"},
        "rounds": {"quorum": 1},
        "evaluation": {"salt": "12345678"} | evaluation,
    }


LEAKY = {"ecg": ECG, "ehr": EHR, "note": {"kind": "text", "leaky": True}}
ONE_CLEAN = {"ecg": ECG, "note": {"kind": "text", "leaky": True}}
ALONE = [{"name": "one", "rounds": 4, "objective": "unimodal", "trains": ["encoders", "adapters", "heads"]}]


@pytest.mark.parametrize(
    ("evaluation", "training", "modalities", "key", "problem", "mend"),
    [
        ({"hidden_of": ["ecg"]}, {}, None, "evaluation.hidden_of", "no share", "hidden = [0.5]"),
        (
            {"hidden": [0.5], "hidden_of": ["ekg"]},
            {},
            None,
            "evaluation.hidden_of",
            "no modality of this name",
            "Did you mean 'ecg'?",
        ),
        ({"hidden": [0.5], "hidden_of": ["note"]}, {}, LEAKY, "evaluation.hidden_of", "states the diagnosis", "Known"),
        ({"hidden": [1.0]}, {}, None, "evaluation.hidden", "every modality but one", "Name fewer"),
        (
            {"hidden": [1.0], "hidden_of": ["ehr", "ecg"]},
            {},
            LEAKY,
            "evaluation.hidden",
            "every modality",
            "Name fewer",
        ),
        ({"subgroups": ["paired"]}, {}, ONE_CLEAN, "evaluation.subgroups", "no row lacks", "Remove it"),
        ({}, {"unpaired": 0.2}, ONE_CLEAN, "training.unpaired", "no row lacks", "Remove it"),
        ({}, {"unpaired": 0.2, "phases": ALONE}, None, "training.unpaired", "no phase trains", "Remove it"),
    ],
)
def test_what_cannot_be_meant_is_a_fault(
    evaluation: dict[str, Any], training: dict[str, Any], modalities: Any, key: str, problem: str, mend: str
) -> None:
    with pytest.raises(ConsiliumError) as caught:
        toml.validated(body(evaluation, training, modalities), Study, path=Path("study.toml"), code=ExitCode.STUDY)
    [fault] = caught.value.faults
    assert fault.key == key and problem in fault.problem and mend in fault.mend


def test_what_can_be_meant_is_none() -> None:
    one = body({"hidden": [0.5, 1.0], "hidden_of": ["ecg"], "subgroups": ["paired"]}, {"unpaired": 0.0}, LEAKY)
    study = Study.model_validate(one)
    assert study.identity != Study.model_validate(body({"hidden": [0.5]}, {}, LEAKY)).identity
    assert all(subgroup_fits(name, study.evaluation) for name in ("paired=yes", "paired=no", "hidden=1", "hidden=0.5"))
    assert not any(subgroup_fits(name, study.evaluation) for name in ("paired=maybe", "paired", "hidden=0.75"))
    plain = Study.model_validate(body({}, {}))
    assert not subgroup_fits("paired=yes", plain.evaluation) and plain.training.unpaired == 1


def test_private_training_of_few_warns_of_the_declared_number() -> None:
    private = body({}, {"unpaired": 0.2}) | {"privacy": {"mode": "patient", "epsilon": 8.0}}
    assert any("declare as 'patients'" in text for text in Study.model_validate(private).warnings())
    assert not any("declare" in text for text in Study.model_validate(body({}, {"unpaired": 0.2})).warnings())


SERIES = {"kind": "events", "fields": ["sodium", "heart_rate"], "hours": 24.0}


@pytest.mark.parametrize(
    ("groups", "problem", "mend"),
    [
        ({"labs": ["creatinin"]}, "no field", "Did you mean 'creatinine'?"),
        ({"labs": []}, "it has no field", "once"),
        ({"labs": ["age", "age"]}, "twice", "once"),
        ({"all": ["age", "sex", "creatinine"]}, "every field of 'ehr'", "subsets = 'every'"),
        ({"icu": ["sodium", "heart_rate", "age"]}, "every field of 'icu'", "Leave one out"),
        ({"said": ["bmi"]}, "no field", "Known"),  # a field of a leaky table
    ],
)
def test_groups_of_fields_that_cannot_be_meant(groups: dict[str, Any], problem: str, mend: str) -> None:
    leaky = {"kind": "table", "fields": ["bmi"], "leaky": True}
    raw = body({"feature_groups": groups}, {}, {"ecg": ECG, "ehr": EHR, "icu": SERIES, "said": leaky})
    with pytest.raises(ConsiliumError) as caught:
        toml.validated(raw, Study, path=Path("study.toml"), code=ExitCode.STUDY)
    [fault] = caught.value.faults
    assert fault.key == f"evaluation.feature_groups.{next(iter(groups))}"
    assert problem in fault.problem and mend in fault.mend
    fine = {"feature_groups": {"mixed": ["age", "sodium"], "frame": ["age", "sex"]}}
    assert Study.model_validate(body(fine, {}, {"ecg": ECG, "ehr": EHR, "icu": SERIES}))
