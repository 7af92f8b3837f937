"""A design over a fake fleet: run, resumed, collected, shown."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fl_server.checkpoint import RunDirectory
from fl_server.designs import Design
from fl_server.designs.collect import collect
from fl_server.designs.execute import execute, read_design
from fl_server.designs.result import SCHEMA_PATH, DesignResult, schema_text
from fl_server.designs.table import show_result
from fl_server.rounds import run_study
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.metrics.synthesis import SiteEstimate, summed
from fl_shared.results import EvaluationRow, Results

QUIET = Console(quiet=True)
SITES = {"davos": {"role": "external", "patients": 50}}


class Runner:
    """Runs studies over the toy fleet; ``broken``: an arm that fails."""

    def __init__(self, make_fleet, initial: dict[str, np.ndarray]) -> None:
        self.make_fleet, self.initial = make_fleet, initial
        self.ran: list[str] = []
        self.broken = ""

    def __call__(self, derived, path: Path, folder: Path) -> Results:
        if derived.arm == self.broken:
            raise ConsiliumError("a round missed its quorum", code=ExitCode.ROUND_FAILED)
        self.ran.append(derived.arm)
        fleet = self.make_fleet(derived.study)
        results = run_study(
            study=derived.study, fleet=fleet, run=RunDirectory(folder), initial=self.initial, log=lambda _: None
        )
        (folder / "report.html").write_text("made")
        return results


def test_a_design_is_resumed_where_it_stopped(make_plan, make_fleet, initial, tmp_path: Path) -> None:
    plan, run = make_plan(Design.LOSO, sites=SITES), Runner(make_fleet, initial)

    def go() -> tuple[DesignResult, Path]:
        return execute(plan, run=run, runs=tmp_path / "runs", weights={}, simulated=False, console=QUIET)

    run.broken = "chur"
    with pytest.raises(ConsiliumError, match="missed its quorum"):
        go()
    folder = tmp_path / "runs" / "toy_loso"
    half = read_design(folder)
    assert half is not None and not half.complete
    assert [study.state for study in half.studies] == ["finished", "finished", "waiting", "waiting"]
    assert any("toy_loso_chur, toy_loso_davos" in note for note in half.notes)
    run.broken = ""
    result, where = go()
    assert where == folder and result.complete and run.ran == ["aarau", "basel", "chur", "davos"]  # each once
    assert read_design(folder) == result
    assert (folder / "report.html").exists() and len(list((folder / "studies").glob("*.toml"))) == 4
    go()
    assert len(run.ran) == 4


def test_simulated_and_deployed_rounds_do_not_mix(make_plan, make_fleet, initial, tmp_path: Path) -> None:
    plan, run = make_plan(Design.LOSO, sites=SITES), Runner(make_fleet, initial)
    execute(plan, run=run, runs=tmp_path, weights={}, simulated=False, console=QUIET)
    with pytest.raises(ConsiliumError, match="holds deployed rounds"):
        execute(plan, run=run, runs=tmp_path, weights={}, simulated=True, console=QUIET)


def test_left_out_sites_beside_themselves_inside(make_plan, finished, told) -> None:
    plan = make_plan(Design.LOSO, sites=SITES)
    outside = {"aarau": 0.80, "basel": 0.70, "chur": 0.85, "davos": 0.60}
    inside = {("aarau", "basel"): 0.9, ("aarau", "chur"): 0.82, ("aarau", "davos"): 0.86}

    def rows(arm: str, site: str, role: str) -> EvaluationRow:
        return told(site, role, outside[site] if arm == site else inside.get((site, arm), 0.75))

    result = collect(plan, finished(plan, rows), simulated=True)
    assert len(result.measures) == 16
    spread = next(s for s in result.spreads if s.site == "aarau")
    assert (spread.mean, spread.lowest, spread.highest, spread.models) == (0.86, 0.82, 0.9, 3)
    assert spread.role == "train" and spread.sd == pytest.approx(0.04)
    (summary,) = result.summaries
    estimates = [SiteEstimate(site=s, value=v, low=v - 0.05, high=v + 0.05) for s, v in outside.items()]
    (direct,) = summed([("auroc", estimates)])
    assert (summary.value, summary.ci_low) == (round(direct.value, 4), round(direct.ci_low, 4))
    assert (summary.arm, summary.role, summary.sites) == ("", "external", tuple(outside))
    assert summary.prediction_low is not None
    assert [worst.site for worst in result.worst] == ["davos"]


def test_spread_over_seeds_and_the_site_worst_in_the_mean(make_plan, finished, told) -> None:
    plan = make_plan(Design.SEEDS, seeds=(1, 2))
    values = {"seed_1": {"aarau": 0.6, "davos": 0.7}, "seed_2": {"aarau": 0.9, "davos": 0.72}}

    def rows(arm: str, site: str, role: str) -> EvaluationRow:
        return told(site, role, values[arm].get(site, 0.8))

    result = collect(plan, finished(plan, rows), simulated=True)
    of = {spread.site: spread for spread in result.spreads if spread.role == "train"}
    assert (of["aarau"].mean, of["aarau"].lowest, of["aarau"].highest) == (0.75, 0.6, 0.9)
    assert of[""].models == 2  # of the summaries over sites
    assert {(w.role, w.site) for w in result.worst} == {("train", "aarau"), ("external", "davos")}


def test_sides_sum_up_the_same_sites_in_every_arm(make_plan, finished, told) -> None:
    plan = make_plan(Design.SIDES)

    def rows(arm: str, site: str, role: str) -> EvaluationRow:
        return told(site, role, 0.8 if arm == "federated" else 0.7 if arm == "pooled" else 0.65)

    result = collect(plan, finished(plan, rows), simulated=True)
    sites = {(one.arm, one.role): one.sites for one in result.summaries}
    assert {sites[arm, "train"] for arm in ("federated", "pooled", "alone_chur")} == {("aarau", "basel", "chur")}
    assert sites["pooled", "external"] == ("davos",)
    assert any(row.site == "pooled" for row in result.measures)  # told, but not summed up: the same patients once more


def test_a_withheld_value_is_told_as_withheld(make_plan, finished, told, tmp_path: Path) -> None:
    plan = make_plan(Design.LOSO, sites=SITES)

    def rows(arm: str, site: str, role: str) -> EvaluationRow:
        return told(site, role, None if site == "chur" else 0.8, note="too few patients" if site == "chur" else "")

    result = collect(plan, finished(plan, rows), simulated=False)
    assert "chur" not in result.summaries[0].sites
    out = io.StringIO()
    show_result(result, tmp_path, Console(file=out, width=200))
    line = next(line for line in out.getvalue().splitlines() if line.strip().startswith("chur"))
    assert "too few patients" in line


def test_subgroups_and_other_inputs_are_left_to_each_report(make_plan, finished, told) -> None:
    plan = make_plan(Design.LOSO, sites=SITES)
    found = finished(plan, lambda arm, site, role: told(site, role, 0.8))
    results = found["aarau"]
    more = (told("aarau", "external", 0.1, subgroup="sex=female"), told("aarau", "external", 0.1, modalities="ecg"))
    found["aarau"] = results.model_copy(update={"evaluation": results.evaluation + more})
    result = collect(plan, found, simulated=False)
    assert {row.value for row in result.measures} == {0.8}


def test_the_schema_in_the_repository_is_current() -> None:
    assert json.loads(SCHEMA_PATH.read_text(encoding="utf-8")) == json.loads(schema_text())
