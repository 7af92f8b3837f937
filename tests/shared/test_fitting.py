"""Studies whose parts do not fit together: each told before any training, by key, value and mend."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_shared import toml
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.models.systems import SYSTEMS
from fl_shared.study import Study

EVERYTHING = ["encoders", "adapters", "fusion", "heads"]
CINE = {"kind": "cine", "frames": 4, "size": 16}
SCAR = {"type": "segmentation", "labels": ["scar"], "modality": "cine"}


def body(**changes: Mapping[str, Any]) -> dict[str, Any]:
    """A study of two modalities; tables given are merged into its own."""
    made: dict[str, Any] = {
        "schema": 1,
        "name": "x",
        "seed": 1,
        "sites": {"a": {"role": "train", "patients": 40}, "z": {"role": "external"}},
        "tasks": {"death": {"type": "binary"}},
        "modalities": {
            "ecg": {"kind": "waveform", "leads": ["I"], "rate": 50, "seconds": 2},
            "ehr": {"kind": "table", "fields": ["age"]},
        },
        "model": {},
        "training": {"rounds": 4, "steps": 3, "batch": 4},
        "privacy": {"mode": "none"},
        "rounds": {"quorum": 1},
        "evaluation": {"salt": "12345678"},
    }
    for key, value in changes.items():
        made[key] = {**made[key], **value}
    return made


def phase(objective: str, *trains: str, rounds: int = 4, name: str = "one", **more: Any) -> dict[str, Any]:
    return {"name": name, "rounds": rounds, "objective": objective, "trains": list(trains or EVERYTHING), **more}


def faults(raw: Any) -> tuple[Fault, ...]:
    with pytest.raises(ConsiliumError) as caught:
        toml.validated(raw, Study, path=Path("study.toml"), code=ExitCode.STUDY)
    assert caught.value.code == ExitCode.STUDY
    for fault in caught.value.faults:
        assert fault.file == "study.toml" and fault.key and fault.problem and fault.mend
        assert "\n" not in str(fault)
    return caught.value.faults


def the_fault(raw: Any) -> Fault:
    (found,) = faults(raw)
    return found


PRIVATE = {"mode": "patient", "epsilon": 8.0}
LEMOF = {"system": "lemof"}
DRAWN = {"tasks": {"scar": SCAR}, "modalities": {"cine": CINE}}


@pytest.mark.parametrize(
    ("changes", "key", "says"),
    [
        ({"training": {"phases": [phase("tasks", rounds=3)]}}, "training", "phases have 3 rounds, rounds = 4"),
        ({"training": {"rounds": 1}, "model": {"system": "medfuse"}}, "training", r"unimodal, fusion.*at least one"),
        ({"training": {"phases": []}}, "training", "no phase. Write one"),
        ({"training": {"phases": [phase("taks")]}}, "training.phases.0.objective", "'taks'.*Did you mean 'tasks'"),
        (
            {"training": {"phases": [phase("levels")]}},
            "training.phases.0.objective",
            "'levels': no objective of fusion 'self_attention'. Known: masked, segmentation, tasks, unimodal",
        ),
        (
            {"model": LEMOF, "training": {"phases": [phase("contrastive")]}},
            "training.phases.0.objective",
            "Known: choose, cross, levels, masked, meta, segmentation, tasks, unimodal",
        ),
        ({"training": {"phases": [phase("tasks", "encoders.mri")]}}, "training.phases.0.trains", "'encoders.mri'"),
        ({"training": {"phases": [phase("tasks", "heads.deth")]}}, "training.phases.0.trains", "mean 'heads.death'"),
        ({"training": {"phases": [phase("tasks", "heads.death@ecg")]}}, "training.phases.0.trains", "no such part"),
        (
            {"training": {"phases": [{**phase("tasks"), "trains": []}]}},
            "training.phases.0.trains",
            "it names nothing",
        ),
        ({"training": {"phases": [phase("tasks", "cine")]}}, "training.phases.0.trains.0", "should match pattern"),
        (
            {"training": {"phases": [phase("tasks", rounds=2), phase("tasks", rounds=2)]}},
            "training.phases.1.name",
            "earlier phase has this name",
        ),
        ({"training": {"phases": [phase("segmentation")]}}, "training.phases.0.objective", "no segmentation for it"),
        (
            {"training": {"phases": [phase("tasks", "encoders")], "encoders": "frozen"}},
            "training.phases.0.trains",
            "encoders are frozen. Train some of: encoders, adapters, fusion, heads.death",
        ),
        ({"training": {"phases": [phase("unimodal", "fusion")]}}, "training.phases.0.trains", "objective depends on"),
        ({"training": {"phases": [phase("masked", "encoders.ehr")]}}, "training.phases.0.trains", "encoders.ecg"),
        ({"model": {"shares": {"mri": 0.5}}}, "model.shares.mri", "'mri'.*Known: ecg, ehr"),
        ({"model": {"levels": {"ecgg": 1}}}, "model.levels.ecgg", "Did you mean 'ecg'"),
        ({"model": {"guide": "ehrs"}}, "model.guide", "Did you mean 'ehr'"),
        ({"model": {"fusion": "lstm"}}, "model.fusion", "'lstm': system 'attention' has no such fusion"),
        ({"model": {"system": "medm2t", "preset": "paper", "width": 100}}, "model", "100 is not divisible by heads 64"),
        ({"model": {"preset": "huge"}}, "model.preset", "'small' or 'paper'"),
        ({"model": {"system": "atention"}}, "model.system", "Did you mean 'attention'"),
        ({"tasks": {"scar": SCAR}}, "tasks.scar.modality", "no cine modality"),
        ({"tasks": {"scar": {**SCAR, "modality": "ecg"}}}, "tasks.scar.modality", "'ecg': no cine modality"),
        ({"tasks": {"death": {"type": "binary", "weights": [1.0, 2.0]}}}, "tasks.death", "2 numbers for 1 outputs"),
        ({"tasks": {"death": {"type": "binary", "weights": [0.0]}}}, "tasks.death", "not all 0"),
        ({"tasks": {"death": {"type": "binary", "weights": [-1.0]}}}, "tasks.death", "0 or more"),
        (
            {"tasks": {"why": {"type": "multiclass", "labels": ["a", "b", "c"], "weights": [1.0]}}},
            "tasks.why",
            "1 numbers for 3 outputs",
        ),
        ({"model": LEMOF, "privacy": PRIVATE, "training": {"rounds": 5}}, "privacy.mode", "fix model.levels"),
        (
            {"model": {**LEMOF, "levels": {"ecg": 1, "ehr": 2}}, "privacy": PRIVATE,
             "training": {"phases": [phase("choose", "fusion.importance")]}},
            "privacy.mode",
            "'choose' releases a function of the patients without noise",
        ),
        ({"privacy": PRIVATE, "training": {"finetune": 3}}, "privacy.mode", "fine-tuning"),
        (
            {"model": LEMOF, "training": {"finetune": 3, "phases": [phase("choose", "fusion.importance")]}},
            "training.finetune",
            "takes no steps",
        ),
        ({"privacy": {"mode": "none", "epsilon": 2.0}}, "privacy", "has no epsilon"),
    ],
)  # fmt: skip
def test_each_fault_names_key_value_and_mend(changes: Any, key: str, says: str) -> None:
    fault = the_fault(body(**changes))
    assert fault.key == key
    assert re.search(says, str(fault)), str(fault)


def test_what_segmentation_needs() -> None:
    alone = {"name": "alone", "rounds": 4, "objective": "tasks", "trains": ["fusion", "heads.death"]}
    fault = the_fault(body(**DRAWN, training={"phases": [alone]}))
    assert (fault.key, fault.problem) == ("tasks.scar", "no phase of system 'attention' trains this segmentation")
    drawn = {**alone, "objective": "segmentation", "trains": ["encoders.cine", "heads.scar"]}
    assert Study.model_validate(body(**DRAWN, training={"phases": [drawn]}))


def test_faults_of_several_parts_are_told_at_once() -> None:
    raw = body(
        model={"guide": "x", "fusion": "y"}, training={"phases": [phase("z", "encoders.q")]}, rounds={"quorum": 9}
    )
    assert {fault.key for fault in faults(raw)} == {
        "model.guide", "model.fusion", "rounds.quorum", "training.phases.0.trains", "training.phases.0.objective",
    }  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("encoders", ["frozen", "local", "shared", "adapters"])
def test_every_system_fits_itself(system: str, encoders: str) -> None:
    for fusion in SYSTEMS[system].fusions:
        raw = body(**DRAWN, model={"system": system, "fusion": fusion}, training={"rounds": 9, "encoders": encoders})
        if system not in ("attention", "m_prtm"):  # their phases train no segmentation
            del raw["tasks"]["scar"]
        phases = Study.model_validate(raw).training.phases
        assert sum(part.rounds for part in phases) == 9


# --- what a person may write by mistake in any place: a fault, never a crash

PLACES = [
    ("model",), ("modalities",), ("tasks",), ("training",), ("sites",), ("model", "levels"), ("model", "shares"),
    ("model", "system"), ("model", "fusion"), ("model", "preset"), ("model", "guide"), ("training", "rounds"),
    ("training", "phases"), ("training", "local"), ("modalities", "ecg"), ("modalities", "ecg", "kind"),
    ("modalities", "ecg", "weights"), ("tasks", "death"), ("tasks", "death", "type"), ("privacy", "mode"),
]  # fmt: skip
GARBAGE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**400), st.floats(allow_nan=True), st.text(max_size=5),
    st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(system=st.sampled_from(sorted(SYSTEMS)), place=st.sampled_from(PLACES), value=GARBAGE)
def test_garbage_anywhere_is_a_fault(system: str, place: tuple[str, ...], value: Any) -> None:
    raw = copy.deepcopy(body(model={"system": system}))
    table = raw
    for key in place[:-1]:
        table = table.setdefault(key, {})
    table[place[-1]] = value
    try:
        toml.validated(raw, Study, path=Path("study.toml"), code=ExitCode.STUDY)
    except ConsiliumError as error:
        assert error.code == ExitCode.STUDY and error.faults
