"""Combinations that a privacy promise does not stand: each told before training, with the reason."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fl_shared import toml
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.study import Study


def body(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "schema": 1,
        "name": "x",
        "seed": 1,
        "sites": {"a": {"role": "train", "patients": 400}, "z": {"role": "external"}},
        "tasks": {"death": {"type": "binary"}},
        "modalities": {
            "ecg": {"kind": "waveform", "leads": ["I"], "rate": 50, "seconds": 2},
            "ehr": {"kind": "table", "fields": ["age"]},
        },
        "training": {"rounds": 4, "steps": 3, "batch": 4, "encoders": "shared"},
        "privacy": {"mode": "patient", "epsilon": 8.0},
        "rounds": {"quorum": 1},
        "evaluation": {"salt": "12345678"},
    }
    for key, value in changes.items():
        made[key] = {**made.get(key, {}), **value} if isinstance(value, dict) else value
    return made


def faults(raw: Any) -> tuple[Fault, ...]:
    with pytest.raises(ConsiliumError) as caught:
        toml.validated(raw, Study, path=Path("study.toml"), code=ExitCode.STUDY)
    assert caught.value.code == ExitCode.STUDY
    assert all(fault.file == "study.toml" and fault.problem and fault.mend for fault in caught.value.faults)
    return caught.value.faults


def weights(provenance: str | None) -> dict[str, Any]:
    given = {"weights": "w", "weights_sha256": "0" * 64, "provenance": provenance}
    return {"ecg": body()["modalities"]["ecg"] | given}


NONE = {"mode": "none", "epsilon": None}
COUNTS = {"tasks": ["death"]}


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"statistics": COUNTS}, "statistics.epsilon", "missing: these counts concern training patients"),
        ({"statistics": {**COUNTS, "epsilon": 1.0}, "privacy": NONE}, "statistics.epsilon", "'none' pays for nothing"),
        ({"evaluation": {"recalibrate": True}}, "evaluation.recalibrate_epsilon", "missing"),
        (
            {"evaluation": {"recalibrate_epsilon": 1.0}},
            "evaluation.recalibrate_epsilon",
            "nothing is released for it. Set evaluation.recalibrate = true",
        ),
        (
            {"evaluation": {"recalibrate": True, "recalibrate_epsilon": 1.0}, "privacy": NONE},
            "evaluation.recalibrate_epsilon",
            "pays for nothing",
        ),
        (
            {"statistics": {**COUNTS, "epsilon": 5.0}, "evaluation": {"recalibrate": True, "recalibrate_epsilon": 3.0}},
            "privacy.epsilon",
            r"statistics\.epsilon \+ evaluation\.recalibrate_epsilon\) sum to 8\. Raise it",
        ),
        ({"privacy": {"delta": 0.0025}}, "privacy.delta", "not below 1 / 400 patients"),
        ({"training": {"strategy": "fedmedian"}}, "privacy.mode", "fedmedian is not the mean"),
        ({"training": {"strategy": "fedtrimmedavg"}}, "privacy.mode", "fedtrimmedavg is not the mean"),
        ({"training": {"finetune": 3}}, "privacy.mode", "not noised"),
        (
            {"tasks": {"death": {"type": "survival", "survival_model": "cox"}}},
            "privacy.mode",
            "the Cox loss of task 'death' couples patients",
        ),
        (
            {"model": {"system": "tte_alignment", "fusion": "contrastive"}},
            "privacy.mode",
            "contrastive loss couples patients",
        ),
        (
            {"modalities": weights("local")},
            "privacy.mode",
            "encoders.ecg: pretrained locally without DP on this cohort",
        ),
        ({"modalities": weights(None)}, "privacy.mode", "encoders.ecg: pretrained without a provenance"),
        ({"privacy": {"accountant": "gdp"}}, "privacy", "'gdp' understates epsilon"),
        ({"constants_from": ["xyz"]}, "constants_from.0", "should match pattern"),
        ({"training": {"strategy": "krum"}}, "training.strategy", "'fedavg'"),
    ],
)
def test_each_is_refused_with_its_reason(changes: Any, key: str, says: str) -> None:
    (fault,) = faults(body(**changes))
    assert fault.key == key
    assert re.search(says, str(fault)), str(fault)


def test_every_reason_is_told_at_once() -> None:
    raw = body(
        modalities=weights("local"),
        training={"strategy": "fedmedian", "finetune": 2},
        evaluation={"recalibrate": True},
        privacy={"delta": 0.009},
    )
    assert sorted(fault.key for fault in faults(raw)) == [
        "evaluation.recalibrate_epsilon", "privacy.delta", "privacy.mode", "privacy.mode", "privacy.mode",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"statistics": {**COUNTS, "epsilon": 1.0}},
        {"statistics": COUNTS, "privacy": NONE},
        {"evaluation": {"recalibrate": True}, "privacy": NONE},
        {"evaluation": {"recalibrate": True, "recalibrate_epsilon": 1.0, "epsilon": 2.0}},
        {"evaluation": {"epsilon": 2.0}, "privacy": NONE},  # the judged patients' own
        {"training": {"strategy": "fedmedian"}, "privacy": NONE},
        {"modalities": weights("public")},
        {"modalities": weights("dp")},
        {"constants_from": ["a" * 64]},
    ],
)
def test_what_fits(changes: Any) -> None:
    assert Study.model_validate(body(**changes))


def test_the_split_names_the_judged_patients() -> None:
    one, other = (Study.model_validate(body(evaluation={"salt": salt})) for salt in ("12345678", "abcdefgh"))
    wider = Study.model_validate(body(evaluation={"holdout": 0.3}))
    assert len({study.evaluation.split for study in (one, other, wider)}) == 3
    assert Study.model_validate(body(name="y")).evaluation.split == one.evaluation.split
