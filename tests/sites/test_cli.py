from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl_shared.errors import ExitCode
from fl_sites import cli
from fl_sites.importers.catalogue import IMPORTERS

HEART_FAILURE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "heart-failure-survival"
NAMES = ["ptb-xl", "uci-heart", "heart-failure-survival", "physionet-2012", "mimic-iv", "sunnybrook"]


def call(monkeypatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", ["fl-sites", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_list(monkeypatch, capsys):
    assert call(monkeypatch, "list", "--format", "json") == 0
    rows = json.loads(capsys.readouterr().out)["importers"]
    assert [row["name"] for row in rows] == NAMES
    assert "scp_statements.csv" in rows[0]["needs"] and "link.csv" in rows[-1]["needs"]
    assert all(row["title"] and row["needs"] and row["download"].startswith("https://") for row in rows)
    assert call(monkeypatch, "list") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in NAMES)


@pytest.mark.parametrize("importer", IMPORTERS, ids=lambda importer: importer.name)
def test_help_says_what_an_import_needs(monkeypatch, capsys, importer):
    assert call(monkeypatch, "import", importer.name, "--help") == 0
    printed = capsys.readouterr().out
    assert all(needed.split()[0] in printed for needed in importer.needs)
    assert ("--ccs" in printed) == (importer.name == "mimic-iv")


@pytest.mark.parametrize("name", NAMES)
def test_incomplete_download_is_refused_in_words(monkeypatch, capsys, tmp_path, name):
    code = call(monkeypatch, "import", name, "--from", tmp_path, "--out", tmp_path / "o", "--format", "json")
    assert code == ExitCode.DATA
    faults = json.loads(capsys.readouterr().out)["faults"]
    assert faults and all(fault["problem"] and fault["mend"] for fault in faults)
    assert not (tmp_path / "o").exists()


def test_every_missing_part_is_named(monkeypatch, capsys, tmp_path):
    assert call(monkeypatch, "import", "ptb-xl", "--from", tmp_path, "--out", tmp_path / "o") == ExitCode.DATA
    printed = capsys.readouterr().err
    assert all(name in printed for name in ("ptbxl_database.csv", "scp_statements.csv", "records100"))


@pytest.mark.skipif(not HEART_FAILURE.is_dir(), reason=f"real data missing: {HEART_FAILURE}")
def test_import_tells_what_was_written(monkeypatch, capsys, tmp_path):
    options = ("import", "heart-failure-survival", "--from", HEART_FAILURE, "--out", tmp_path)
    assert call(monkeypatch, *options, "--format", "json") == 0
    done = json.loads(capsys.readouterr().out)
    assert done["records"] == done["patients"] == {"faisalabad": 299}
    assert Path(done["study"]).is_file()
    assert call(monkeypatch, *options) == 0
    printed = capsys.readouterr().out
    assert "faisalabad" in printed and "299" in printed and str(tmp_path / "study.toml") in printed


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


def test_help_names_every_command(monkeypatch, capsys):
    assert call(monkeypatch, "--help") == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("list", "import", "synthesize"))
