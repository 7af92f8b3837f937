"""A comparison over fake sites: run, killed, continued, failed, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from fl_server import durable
from fl_server.comparison import fleet
from fl_server.comparison.collect import read
from fl_server.comparison.derive import Grid, derive
from fl_server.comparison.result import SCHEMA_PATH, ComparisonResult, schema_text
from fl_server.comparison.run import LOCK, Place, run_comparison
from fl_server.launch import conduct, load_prepared
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.written import write_model

QUIET = Console(quiet=True)
TEXT = """schema = 1
name = "grid"
study = "study.toml"
modes = ["pooled", "federated"]
[variants.plain]
[variants.wide]
study = {model = {width = 16}}
"""


@pytest.fixture
def grid(make_study, tmp_path: Path) -> Grid:
    ehr = {"kind": "table", "fields": ["age", "sex"]}
    plan = {"training": {"encoders": "shared", "rounds": 1}, "rounds": {"max_norm": 1e9}, "model": {"width": 8}}
    body = make_study(modalities={"ehr": ehr}, **plan)
    write_model(tmp_path / "study.toml", body, header="test")
    (tmp_path / "grid.toml").write_text(TEXT + "only = ['ecg', 'ehr']\n", encoding="utf-8")
    return derive(tmp_path / "grid.toml")


class Sites:
    """Conducts every study over fake sites; ``ends``: number of a call -> what it raises."""

    def __init__(self, make_fleet) -> None:
        self.make_fleet, self.ran = make_fleet, []
        self.ends: dict[int, BaseException] = {}

    def __call__(self, path: Path, *, folder: Path, sites_dir: Path, pools) -> None:
        if error := self.ends.pop(len(self.ran), None):
            raise error
        self.ran.append(folder.name)
        conduct(folder, self.make_fleet(load_prepared(folder)))


@pytest.fixture
def sites(make_fleet, monkeypatch) -> Sites:
    made = Sites(make_fleet)
    monkeypatch.setattr(fleet, "run_here", made)
    return made


@pytest.fixture
def go(grid: Grid, tmp_path: Path):
    def run() -> ComparisonResult:
        place = Place(folder=tmp_path / "runs" / "grid", sites_dir=tmp_path, weights={}, workers=1)
        return run_comparison(grid, place, console=QUIET)

    return run


def test_a_killed_run_continues(grid: Grid, sites: Sites, go, tmp_path: Path) -> None:
    folder, names = tmp_path / "runs" / "grid", [cell.studies[0].study.name for cell in grid.cells]
    sites.ends[2] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        go()
    half = read(folder)
    assert half is not None and [cell.state for cell in half.cells] == ["finished"] * 2 + ["waiting"] * 2
    assert not half.complete and half.wall_seconds is None and sites.ran == names[:2]
    done = go()
    assert sites.ran[:4] == names and done.complete  # each once
    assert len(sites.ran) == 6 and all(name.startswith("vs_wide_") for name in sites.ran[4:])
    assert read(folder) == done and done.wall_seconds is None  # not all cells in one run
    assert [cell.runs for cell in done.cells] == [(f"cells/{name}",) for name in names]
    assert go() == done and len(sites.ran) == 6
    assert {(n.site, n.role) for n in done.numbers} == {
        ("aarau", "train"), ("basel", "train"), ("chur", "train"), ("davos", "external"),
        ("", "train"), ("", "external"),
    }  # fmt: skip
    assert {number.value for number in done.numbers} == {0.7}


def test_a_cell_that_fails_stops_no_other_and_is_tried_again(sites: Sites, go) -> None:
    sites.ends[0] = ConsiliumError("the disk is full", code=ExitCode.CHECKPOINT)
    first = go()
    assert [cell.state for cell in first.cells] == ["failed", "finished", "finished", "finished"]
    assert first.cells[0].reason == "the disk is full" and first.wall_seconds is not None
    assert len(sites.ran) == 4  # three cells, and one variant beside the reference
    again = go()
    assert [cell.state for cell in again.cells] == ["finished"] * 4 and len(sites.ran) == 6
    assert again.wall_seconds == first.wall_seconds


def test_what_a_site_refuses_for_privacy_is_not_tried_again(sites: Sites, go) -> None:
    sites.ends[1] = ConsiliumError("per-patient gradients differ", code=ExitCode.PRIVACY)
    first = go()
    assert first.cells[1].state == "refused" and first.cells[1].reason == "per-patient gradients differ"
    assert first.complete
    before = list(sites.ran)
    assert go().cells == first.cells and sites.ran == before


def test_an_unexpected_error_is_told(sites: Sites, go) -> None:
    sites.ends[0] = ZeroDivisionError("division by zero")
    assert go().cells[0].reason == "unexpected ZeroDivisionError: division by zero"


def test_a_second_start_on_the_same_folder_is_refused(sites: Sites, go, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "grid"
    folder.mkdir(parents=True)
    with durable.locked(folder / LOCK, what="x"), pytest.raises(ConsiliumError) as refused:
        go()
    assert refused.value.code == ExitCode.ALREADY_RUNNING and not sites.ran


def test_a_folder_of_another_run_is_left_alone(sites: Sites, go, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "grid"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text("{}")
    with pytest.raises(ConsiliumError, match="Use another --runs"):
        go()


def test_the_schema_in_the_repository_is_current() -> None:
    assert json.loads(SCHEMA_PATH.read_text(encoding="utf-8")) == json.loads(schema_text())
