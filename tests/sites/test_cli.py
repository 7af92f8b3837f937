from __future__ import annotations

import json

import pytest

from fl_shared.errors import ExitCode
from fl_sites import cli


def call(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["fl-sites", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_list(monkeypatch, capsys):
    assert call(monkeypatch, "list", "--format", "json") == 0
    (row,) = json.loads(capsys.readouterr().out)["importers"]
    assert row["name"] == "ptb-xl" and "scp_statements.csv" in row["needs"]
    assert call(monkeypatch, "list") == 0
    assert "ptb-xl" in capsys.readouterr().out


def test_synthesize(monkeypatch, capsys, tmp_path):
    options = ("synthesize", "--out", tmp_path, "--sites", "a, b", "--patients", 10, "--seed", 3)
    assert call(monkeypatch, *options, "--format", "json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done["patients"] == {"a": 10, "b": 10}
    assert done["study"] == str(tmp_path / "study.toml") and (tmp_path / "truth" / "oracle.json").is_file()
    assert call(monkeypatch, *options) == 0
    printed = capsys.readouterr().out
    assert str(tmp_path / "study.toml") in printed and "oracle" in printed


def test_foreign_folder_is_refused_in_words(monkeypatch, capsys, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").touch()
    assert call(monkeypatch, "synthesize", "--out", tmp_path, "--sites", "a", "--patients", 10) == ExitCode.SITE
    assert "Choose another --out" in capsys.readouterr().err


def test_incomplete_download_is_refused_in_words(monkeypatch, capsys, tmp_path):
    code = call(monkeypatch, "import", "ptb-xl", "--from", tmp_path, "--out", tmp_path / "o", "--format", "json")
    assert code == ExitCode.DATA
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert [fault["key"] for fault in faults] == ["ptbxl_database.csv", "scp_statements.csv", "records100"]


def test_help_names_every_command(monkeypatch, capsys):
    assert call(monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("list", "import", "synthesize"))
