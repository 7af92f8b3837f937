"""`fl-server compare-systems` and `fl-server paper`: exit codes, and what a mistake says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_up import comparison, variant

from fl_server import cli
from fl_server.cli import run
from fl_server.comparison.result import CellTold
from fl_shared.errors import ExitCode
from fl_shared.study import Study
from fl_shared.written import write_model

STUDY: dict[str, Any] = {
    "schema": 1,
    "name": "small",
    "seed": 7,
    "sites": {"east": {"role": "train", "patients": 40}, "west": {"role": "external"}},
    "tasks": {"death": {"type": "binary"}},
    "modalities": {"ehr": {"kind": "table", "fields": ["age", "sex"]}},
    "training": {"rounds": 2, "steps": 1, "batch": 4},
    "privacy": {"mode": "none"},
    "rounds": {"quorum": 1},
    "evaluation": {"salt": "saltsalt"},
}


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    write_model(tmp_path / "study.toml", Study.model_validate(STUDY), header="")
    path = tmp_path / "grid.toml"
    path.write_text("schema = 1\nname = 'grid'\nstudy = 'study.toml'\n[variants.one]\n", encoding="utf-8")
    return path


def exit_of(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["fl-server", *map(str, words)])
    with pytest.raises(SystemExit) as done:
        run(cli.app)
    return int(done.value.code or 0)


def test_every_site_folder_that_is_missing_is_named_before_a_cell_runs(grid: Path, monkeypatch, capsys) -> None:
    sites, runs = grid.parent / "nowhere", grid.parent / "runs"
    code = exit_of(monkeypatch, "compare-systems", grid, "--sites-dir", sites, "--runs", runs, "--format", "json")
    told = json.loads(capsys.readouterr().out)["error"]
    assert code == ExitCode.SITE and "nowhere/east" in told and "nowhere/west" in told and "--sites-dir" in told
    assert not runs.exists()


@pytest.mark.parametrize(("state", "expected"), [("failed", ExitCode.ROUND_FAILED), ("refused", ExitCode.OK)])
def test_a_failed_cell_is_an_exit_code_and_a_refused_one_is_none(
    grid: Path, monkeypatch, capsys, state, expected
) -> None:
    cell = CellTold(variant="one", mode="federated", seed=1, state=state, reason="out of memory")
    made = comparison([variant("one")], [], cells=[cell])
    monkeypatch.setattr("fl_server.comparison.run.run_comparison", lambda *_, **__: made)
    monkeypatch.setattr("fl_server.comparison.command.load_site", lambda _: None)
    code = exit_of(monkeypatch, "compare-systems", grid, "--runs", grid.parent / "runs")
    assert code == expected and "out of memory" in capsys.readouterr().out


def test_a_paper_s_file_that_cannot_be_written_is_told(grid: Path, monkeypatch, capsys) -> None:
    file = grid.parent / "no such folder" / "paper.toml"
    code = exit_of(monkeypatch, "paper", "medm2t", grid.parent / "study.toml", "--write", file, "--format", "json")
    assert code == ExitCode.USAGE and str(file) in json.loads(capsys.readouterr().out)["error"]
