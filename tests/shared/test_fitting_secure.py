"""What secure aggregation, distributed noise and site-level privacy cannot be combined with: key, reason, mend."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from fl_shared.errors import UnfitError
from fl_shared.fitting_secure import threshold
from fl_shared.study import Study

SECURE = {"mode": "none", "aggregation": "secure"}
TOGETHER = {"mode": "patient", "epsilon": 8.0, "aggregation": "secure", "noise": "distributed"}
SITE = {"mode": "site", "epsilon": 8.0}
FINE = {"encoders": "frozen", "steps": 1, "optimizer": "sgd"}


def make(*, sites: int = 4, **changes: Mapping[str, Any]) -> Study:
    made: dict[str, Any] = {
        "schema": 1,
        "name": "x",
        "seed": 1,
        "sites": {name: {"role": "train", "patients": 40} for name in "abcdefghij"[:sites]},
        "tasks": {"death": {"type": "binary"}},
        "modalities": {"ehr": {"kind": "table", "fields": ["age"]}},
        "training": {"rounds": 4, "batch": 4, **FINE},
        "privacy": {"mode": "none"},
        "rounds": {"quorum": 3},
        "evaluation": {"salt": "12345678"},
    }
    for key, value in changes.items():
        made[key] = {**made.get(key, {}), **value}
    return Study.model_validate(made)


def faults(**changes: Any) -> dict[str, str]:
    """Key -> problem and mend."""
    with pytest.raises(ValidationError) as caught:
        make(**changes)
    error = caught.value.errors()[0]["ctx"]["error"]
    assert isinstance(error, UnfitError)
    return {fault.key: f"{fault.problem}. {fault.mend}" for fault in error.faults}


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"privacy": SECURE, "sites": 2, "rounds": {"quorum": 2}}, "privacy.aggregation", "learns the other's update"),
        ({"privacy": SECURE, "rounds": {"quorum": 2}}, "rounds.quorum", "Raise it to 3"),
        ({"privacy": SECURE, "sites": 9, "rounds": {"quorum": 5}}, "rounds.quorum", "fewer than 6 of 9 sites"),
        ({"privacy": SECURE, "training": {"strategy": "fedmedian"}}, "training.strategy", "every update by itself"),
        ({"privacy": SECURE, "training": {"strategy": "fedtrimmedavg"}}, "training.strategy", "sum only"),
        ({"privacy": SECURE, "rounds": {"max_norm": 10.0}}, "rounds.max_norm", "no update can be judged by itself"),
        ({"privacy": SECURE, "training": {"encoders": "local"}}, "training.final_encoders", "by itself after the last"),
        ({"privacy": SECURE, "training": {"local": ["norms"]}}, "training.final_encoders", "Set it to 'initial'"),
        ({"privacy": {**TOGETHER, "aggregation": "plain"}}, "privacy.noise", "too small for its update to be seen"),
        ({"privacy": {**SECURE, "noise": "distributed"}}, "privacy.noise", "mode 'none' has no noise"),
        ({"privacy": TOGETHER, "training": {"steps": 2}}, "training.steps", "under its own noise alone"),
        ({"privacy": TOGETHER, "training": {"optimizer": "adam"}}, "training.optimizer", "no linear function"),
        (
            {"privacy": TOGETHER, "training": {"encoders": "local", "final_encoders": "initial"}},
            "training.encoders",
            "into later rounds",
        ),
        (
            {"privacy": TOGETHER, "training": {"local": ["heads"], "final_encoders": "initial"}},
            "training.local",
            "into later rounds",
        ),
        ({"privacy": SITE, "training": {"encoders": "local"}}, "training.encoders", "not noised in mode 'site'"),
        ({"privacy": SITE, "training": {"local": ["norms"]}}, "training.local", "not noised in mode 'site'"),
        ({"privacy": SITE, "training": {"finetune": 5}}, "privacy.mode", "fine-tuning after the last round"),
        ({"privacy": SITE, "statistics": {"tasks": ["death"], "epsilon": 1.0}}, "statistics", "not a site"),
        (
            {"privacy": SITE, "evaluation": {"recalibrate": True, "recalibrate_epsilon": 1.0}},
            "evaluation.recalibrate",
            "not a site",
        ),
    ],
)
def test_refused_with_the_reason(changes: dict[str, Any], key: str, says: str) -> None:
    found = faults(**changes)
    assert key in found and says in found[key], found


@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": SECURE},
        {"privacy": SECURE, "training": {"encoders": "shared", "strategy": "fedadam", "steps": 5, "optimizer": "adam"}},
        {"privacy": SECURE, "training": {"encoders": "local", "final_encoders": "initial"}},
        {"privacy": TOGETHER},
        {"privacy": TOGETHER, "training": {"encoders": "adapters", "strategy": "fedyogi", "weight_decay": 0.1}},
        {"privacy": {**TOGETHER, "noise": "local"}, "training": {"steps": 9, "optimizer": "adamw"}},
        {"privacy": {**TOGETHER, "mode": "site"}, "training": {"steps": 9, "optimizer": "adamw", "encoders": "shared"}},
        {"privacy": SITE, "training": {"steps": 9, "encoders": "shared"}},
    ],
)
def test_allowed(changes: dict[str, Any]) -> None:
    make(**changes)


def test_the_choice_of_a_level_can_be_summed() -> None:
    """A phase that chooses releases what every site found: its mean is a mean like any other."""
    make(privacy=SECURE, model={"system": "lemof"}, training={"rounds": 5, "encoders": "shared"})


def test_the_threshold_leaves_no_two_disjoint_openings() -> None:
    """Both secrets of a site would be open if two sets of honest sites, with every colluder in both, reached it."""
    for sites in range(3, 40):
        least = threshold(sites)
        assert 3 <= least <= sites
        colluders = (sites - 1) // 3  # fewer than a third
        assert 2 * (least - colluders) > sites - colluders
