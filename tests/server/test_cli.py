"""``fl-server`` as a coordinating centre runs it, without a coordinator: real processes, messages and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fl_server.superlink import fingerprint
from fl_shared.errors import ExitCode
from fl_shared.models.systems import SYSTEMS

STUDY = """schema = 1
name = "toy"
seed = 7
[sites.aarau]
role = "train"
patients = 100
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
quorum = 1
[evaluation]
salt = "saltsalt"
"""


@pytest.fixture
def server(tmp_path: Path):
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "fl_server.cli", *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run


def test_run_without_a_coordinator_says_how_to_start_one(server, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY)
    done = server("run", "study.toml", "--format", "json")
    assert done.returncode == ExitCode.UNREACHABLE and done.stderr == ""
    found = json.loads(done.stdout)
    assert (found["name"], found["code"]) == ("UNREACHABLE", 18)
    assert f"fl-server up --home {tmp_path / 'coordinator'}" in found["error"]
    assert not (tmp_path / "runs").exists()


def test_invalid_study_is_told_whether_or_not_a_coordinator_runs(server, tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(STUDY.replace("seed", "sed").replace("steps = 1", "steps = 0"))
    done = server("run", "study.toml")
    assert done.returncode == ExitCode.STUDY and done.stdout == ""
    assert "sed: unknown key. Did you mean 'seed'?" in done.stderr
    assert "seed: missing" in done.stderr and "training.steps = 0" in done.stderr


def test_report_of_an_unfinished_run(server, tmp_path: Path) -> None:
    (tmp_path / "runs" / "toy").mkdir(parents=True)
    done = server("report", "runs/toy", "--format", "json")
    assert done.returncode == ExitCode.CHECKPOINT
    assert "has not finished" in json.loads(done.stdout)["error"]


def test_fingerprint_is_the_one_that_the_site_shows(tmp_path: Path, capsys, monkeypatch) -> None:
    from fl_client import cli

    folder = tmp_path / "sites" / "aarau"
    folder.mkdir(parents=True)
    (folder / "site.toml").write_text('schema = 1\nname = "aarau"\n')
    (folder / "samples.csv").touch()
    arguments = ["fl-client", "--sites-dir", str(folder.parent), "--site", "aarau", "key", "--format", "json"]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit):
        cli.main()
    shown = json.loads(capsys.readouterr().out)
    assert shown["fingerprint"] == fingerprint(Path(shown["public_key"]))


def test_systems_are_listed_for_people_and_for_programs(server) -> None:
    told, listed = server("systems", "--format", "json"), server("systems")
    assert (told.returncode, told.stderr, listed.returncode, listed.stderr) == (0, "", 0, "")
    found = json.loads(told.stdout)
    assert {system["name"] for system in found["systems"]} == set(SYSTEMS)
    names = [row["name"] for part in ("systems", "encoders", "fusions") for row in found[part]]
    assert len(set(names)) == len(names) and all(name in listed.stdout for name in names)  # none is cut
    assert "…" not in listed.stdout and max(map(len, listed.stdout.splitlines())) <= 80
    for system in found["systems"]:
        small, paper = system["parameters"]["small"], system["parameters"]["paper"]
        assert 0 < small < paper and f"{small:,} / {paper:,}" in listed.stdout
        assert system["phases"] and all(phase["does"] for phase in system["phases"])
    early = next(system for system in found["systems"] if system["name"] == "baselines")["other_phases"]["early"]
    assert [phase["name"] for phase in early] == ["unimodal", "fusion"] and "with early:" in listed.stdout
