"""Designs on real site folders: leave one site out by the command, through Flower's engine; sides in one process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from federation import Federation
from rich.console import Console

from fl_client.approval import approve, approve_study
from fl_client.data.load import load_cohort
from fl_client.data.pooled import PooledReader
from fl_client.service import SiteService
from fl_client.training.actors import LocalPool
from fl_server.checkpoint import RunDirectory
from fl_server.comparison.fleet import OwnSites
from fl_server.designs import Design
from fl_server.designs.command import run_design
from fl_server.designs.derive import Derived, plan_design
from fl_server.designs.execute import execute, read_design
from fl_server.designs.files import write_studies
from fl_server.designs.view import boards
from fl_server.rounds import run_study
from fl_server.simulation import simulated_site
from fl_shared.commands import Format
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model, select
from fl_shared.models.systems import opened
from fl_shared.results import Results
from fl_shared.site import load_site
from fl_shared.study import Study, load_study
from fl_sites.study_file import plan_sites, write_model
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.plans import QUICK

SITES = ("alpha", "beta", "gamma")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of the table alone over three synthetic hospitals, each with its declared patients; gamma judges."""
    folder = tmp_path_factory.mktemp("designs")
    synthesize(folder / "sites", sites=SITES, patients=60, seed=3, modalities=QUICK)
    study = load_study(folder / "sites" / "study.toml")
    body = opened(study.model_dump(mode="json", by_alias=True, exclude_none=True))
    table = next(name for name, plan in study.modalities.items() if plan.kind == "table")
    task = next(name for name, plan in study.tasks.items() if plan.type == "binary")
    body |= {"name": "tiny", "privacy": {"mode": "none"}, "rounds": {"quorum": 1, "deadline": 300.0}}
    body["modalities"] = {table: body["modalities"][table]}
    body["tasks"] = {task: body["tasks"][task]}
    body["training"] |= {"rounds": 1, "steps": 2, "batch": 8, "encoders": "shared"}
    body["evaluation"] |= {"bootstrap": 100}
    ids = {name: pd.read_csv(folder / "sites" / "truth" / f"{name}.csv", dtype=str)["patient_id"] for name in SITES}
    for name, plan in plan_sites(ids, external=None, plan=study.evaluation).items():
        body["sites"][name] = {"role": "external" if name == "gamma" else "train", "patients": plan.patients}
    write_model(folder / "tiny.toml", Study.model_validate(body), header="test")
    return folder


@pytest.mark.integration
def test_simulate_leaves_every_site_out(written: Path) -> None:
    """The command, for two sites; a second call finds all studies finished, and tells the same."""
    body = opened(load_study(written / "tiny.toml").model_dump(mode="json", by_alias=True, exclude_none=True))
    del body["sites"]["gamma"]
    write_model(written / "pair.toml", Study.model_validate(body | {"name": "pair"}), header="test")
    words = ("simulate", "pair.toml", "--design", "loso", "--sites-dir", "sites", "--runs", "runs", "--format", "json")
    command = [sys.executable, "-m", "fl_server.cli", *words]
    done = subprocess.run(command, cwd=written, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert [study["state"] for study in result["studies"]] == ["finished"] * 2 and result["simulated"]
    outside = {row["site"] for row in result["measures"] if row["site"] == row["arm"]}
    assert outside == {"alpha", "beta"}
    assert all(row["role"] == ("external" if row["site"] == row["arm"] else "train") for row in result["measures"])
    page = (written / "runs" / "pair_loso" / "report.html").read_text(encoding="utf-8")
    assert "Leave one site out: pair" in page and "SYNTHETIC DATA" in page
    again = subprocess.run(command, cwd=written, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0 and again.stderr.count("has finished before") == 2
    assert json.loads(again.stdout) == result


def in_process(written: Path, root: Path):
    """Runs a study over the sites' own services, one after the other."""

    def run(derived: Derived, path: Path, folder: Path) -> Results:
        study, services = load_study(path), {}
        for name in study.sites:
            members = derived.pools.get(name, ())
            site = simulated_site(written / "sites", root / study.name, name, members=members)
            held = tuple(load_site(written / "sites" / member) for member in members)
            approve_study(site, study, file="study.toml")
            services[name] = SiteService(site, LocalPool(site, read=PooledReader(members=held) if held else None))
        initial = select(build_model(study))
        return run_study(
            study=study, fleet=OwnSites(services), run=RunDirectory(folder), initial=initial, log=lambda _: None
        )

    return run


@pytest.mark.integration
def test_sides_are_judged_on_the_same_patients(written: Path, tmp_path: Path) -> None:
    plan = plan_design(written / "tiny.toml", Design.SIDES)
    result, _ = execute(
        plan, run=in_process(written, tmp_path / "state"), runs=tmp_path, weights={}, simulated=True,
        console=Console(quiet=True),
    )  # fmt: skip
    arms = {"federated", "alone_alpha", "alone_beta", "pooled"}
    for site in SITES:
        told = {row.arm: row.n for row in result.measures if row.site == site and row.metric == "auroc"}
        assert told.keys() == arms and len(set(told.values())) == 1, site
    (board,) = boards(result)
    assert board.columns == ("federated", "pooled", "alpha alone", "beta alone")
    names = ["gamma (external)", "alpha (internal)", "beta (internal)", "all external sites", "worst external site"]
    assert [line.name for line in board.lines[:5]] == names
    assert all(cell.startswith("gamma ") for cell in board.lines[4].cells)  # the only one


def test_a_pool_holds_every_patient_once_and_holds_out_the_same(written: Path) -> None:
    study = load_study(written / "tiny.toml")
    members = tuple(load_site(written / "sites" / name) for name in SITES[:2])
    apart = [load_cohort(member, study, workers=1)[0] for member in members]
    made = PooledReader(members=members)(members[0].model_copy(update={"name": "pooled"}), study)
    assert made.site == "pooled" and len(made) == sum(map(len, apart))
    assert len(set(made.patient_ids)) == sum(len(cohort.patient_ids) for cohort in apart)
    held = {f"{c.site}/{p}" for c in apart for p, out in zip(c.patient_ids, c.held_out, strict=True) if out}
    assert {p for p, out in zip(made.patient_ids, made.held_out, strict=True) if out} == held
    (task,) = study.tasks
    at = len(apart[0])  # the second cohort's first row
    assert made.patient_ids[made.patient[at]] == f"beta/{apart[1].patient_ids[apart[1].patient[0]]}"
    assert np.array_equal(made.targets[task][at:], apart[1].targets[task])
    (table,) = study.modalities
    for key, array in apart[1].inputs[table].items():
        assert np.array_equal(made.inputs[table][key][at:], array)


@pytest.mark.integration
def test_run_needs_every_study_approved_and_continues(
    hospitals: Federation, capsys: pytest.CaptureFixture[str]
) -> None:
    """Over sockets: gamma approves all studies but one, so the design stops there and goes on when it has."""
    parent = hospitals.study(
        "design", privacy={"mode": "none", "epsilon": None}, rounds={"quorum": 1},
        training={"rounds": 1, "steps": 1, "batch": 8}, sites={"gamma": {"role": "external", "patients": 48}},
    )  # fmt: skip
    plan, runs = plan_design(parent, Design.LOSO), hospitals.root / "runs"
    files = write_studies(plan, hospitals.root / "to_approve")
    for arm, path in files.items():
        for name in ("alpha", "beta") if arm == "beta" else ("alpha", "beta", "gamma"):
            approve(load_site(hospitals.sites / name), path)

    def go() -> dict[str, Any]:
        run_design(
            parent, design=Design.LOSO, seeds="", home=hospitals.home.path, runs=runs, weights={}, fmt=Format.JSON
        )
        return json.loads(capsys.readouterr().out)

    with pytest.raises(ConsiliumError, match="refuse it") as refused:
        go()
    assert refused.value.code == ExitCode.NOT_APPROVED
    states = {study.arm: study.state for study in read_design(runs / plan.name).studies}
    assert states == {"alpha": "finished", "beta": "waiting", "gamma": "waiting"}
    approve(load_site(hospitals.sites / "gamma"), files["beta"])
    result = go()
    assert {study["state"] for study in result["studies"]} == {"finished"} and not result["simulated"]
    assert {row["site"] for row in result["measures"] if row["role"] == "external"} == {"alpha", "beta", "gamma"}
