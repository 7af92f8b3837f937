from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import load_site
from fl_shared.study import EvaluationPlan, is_held_out, load_study

STUDY = """
schema = 1
name = "x"
seed = 1
[sites.a]
role = "train"
patients = 40
[sites.b]
role = "external"
[tasks.mi]
type = "binary"
[modalities.ehr]
kind = "table"
fields = ["age"]
[training]
rounds = 2
steps = 3
batch = 4
[privacy]
mode = "none"
[rounds]
quorum = 1
[evaluation]
salt = "12345678"
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_every_fault_at_once_with_its_mend(tmp_path: Path) -> None:
    text = STUDY.replace('fields = ["age"]', 'fields = ["age"]\nfeilds = 1').replace(
        "steps = 3", "stepps = 3\nbatch2 = 1"
    )
    with pytest.raises(ConsiliumError) as caught:
        load_study(write(tmp_path / "study.toml", text))
    assert caught.value.code == ExitCode.STUDY
    found = {fault.key: fault for fault in caught.value.faults}
    assert "Did you mean 'fields'?" in found["modalities.ehr.feilds"].mend
    assert "Did you mean 'steps'?" in found["training.stepps"].mend
    assert found["training.steps"].problem == "missing"
    assert "training.batch2" in found


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("quorum = 1", "quorum = 2", "exceeds the 1 training sites"),
        ('mode = "none"', 'mode = "patient"', "needs 'epsilon'"),
        ('mode = "none"', 'mode = "none"\nepsilon = 3.0', "has no epsilon"),
        ("patients = 40", "", "declare no patients"),
        ('type = "binary"', 'type = "multilabel"', "at least two labels"),
        ("batch = 4", 'batch = 4\nlearning_rate = "fast"', "valid number"),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(ConsiliumError, match=says):
        load_study(write(tmp_path / "study.toml", STUDY.replace(old, new)))


def test_identity_is_stable_and_sees_every_change(tmp_path: Path) -> None:
    study = load_study(write(tmp_path / "study.toml", STUDY))
    path = str(tmp_path / "study.toml")
    code = f"import pathlib, fl_shared.study as s; print(s.load_study(pathlib.Path({path!r})).identity)"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip()
    assert study.identity == other
    changes = [("seed = 1", "seed = 2"), ("patients = 40", "patients = 41"), ("12345678", "12345679"), ('"x"', '"y"')]
    identities = {load_study(write(tmp_path / "o.toml", STUDY.replace(*change))).identity for change in changes}
    assert len(identities | {study.identity}) == 5
    assert load_study(write(tmp_path / "o.toml", STUDY + "\n# a comment\n")).identity == study.identity


def test_held_out_patients_depend_on_the_salt_alone() -> None:
    plan = EvaluationPlan(salt="one salt", holdout=0.2)
    chosen = [is_held_out(str(i), site="a", plan=plan) for i in range(5000)]
    assert abs(sum(chosen) / 5000 - 0.2) < 0.02
    other = EvaluationPlan(salt="two salt", holdout=0.2)
    assert chosen != [is_held_out(str(i), site="a", plan=other) for i in range(5000)]


def test_missing_paths_and_unknown_keys_of_a_site(tmp_path: Path) -> None:
    with pytest.raises(ConsiliumError) as caught:
        load_site(write(tmp_path / "site.toml", 'schema = 1\nname = "a"\nsampels = "x.csv"\ntimezone = "Mars/Base"\n'))
    assert {fault.key for fault in caught.value.faults} == {"sampels", "timezone"}
    assert caught.value.code == ExitCode.SITE
    with pytest.raises(ConsiliumError) as caught:
        load_site(
            write(tmp_path / "site.toml", 'schema = 1\nname = "a"\nsamples = "none.csv"\n[weights]\nbert = "no"\n')
        )
    assert {fault.key for fault in caught.value.faults} == {"samples", "weights.bert"}
