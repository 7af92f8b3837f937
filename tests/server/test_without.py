"""``fl-server without`` as a coordinating centre runs it; against a run: tests/integration/test_officer.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl_server import cli
from fl_shared.commands import run
from fl_shared.errors import ExitCode
from fl_shared.study import load_study

STUDY = """schema = 1
name = "{name}"
seed = 7
[sites.aarau]
role = "train"
patients = 100
[sites.basel]
role = "train"
patients = 200
[sites.davos]
role = "external"
[tasks.mace]
type = "binary"
[modalities.ehr]
kind = "table"
fields = ["age"]
[training]
rounds = 3
steps = 1
batch = 10
[privacy]
mode = "none"
[rounds]
quorum = 2
[evaluation]
salt = "saltsalt"
"""


@pytest.fixture
def server(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.toml").write_text(STUDY.format(name="toy"))

    def invoke(*arguments: str):
        monkeypatch.setattr("sys.argv", ["fl-server", *arguments])
        with pytest.raises(SystemExit) as done:
            run(cli.app)
        told = capsys.readouterr()
        return done.value.code, told.out + told.err

    return invoke


def test_a_study_without_a_run(server, tmp_path: Path) -> None:
    code, text = server("without", "study.toml", "basel", "--out", "new.toml", "--format", "json")
    body, made = json.loads(text), load_study(tmp_path / "new.toml")
    assert code == 0 and body["hash"] == made.identity and made.name == "toy_without_basel"
    assert (body["quorum"], body["contained_in"], body["payments"]) == ([2, 1], [], {})
    assert made.train_sites == ("aarau",) and made.external_sites == ("davos",) and made.rounds.quorum == 1
    code, text = server("without", "study.toml", "davos", "--out", "other.toml")
    assert code == 0 and "no committed round of the old run contains an update of davos" in text
    assert load_study(tmp_path / "other.toml").rounds.quorum == 2


def test_faults_are_told(server, tmp_path: Path) -> None:
    code, text = server("without", "study.toml", "basle", "--out", "new.toml")
    assert code == ExitCode.STUDY and "Did you mean 'basel'?" in text
    (tmp_path / "new.toml").touch()
    code, text = server("without", "study.toml", "basel", "--out", "new.toml", "--format", "json")
    assert code == ExitCode.USAGE and "exists already" in json.loads(text)["error"]


def test_a_long_name_stays_one(server, tmp_path: Path) -> None:
    name = "a" * 48
    (tmp_path / "study.toml").write_text(STUDY.format(name=name))
    code, _ = server("without", "study.toml", "basel", "--out", "new.toml")
    assert code == 0 and load_study(tmp_path / "new.toml").name == f"{'a' * 34}_without_basel"
