"""A plan of a design over the toy study, and results of its studies with rows of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from fl_server.checkpoint import RunDirectory
from fl_server.designs import Design
from fl_server.designs.derive import DesignPlan, plan_design
from fl_server.rounds import run_study
from fl_shared.results import EvaluationRow, Results
from fl_shared.written import write_model


def build_row(site: str, role: str, value: float | None, **changes) -> EvaluationRow:
    """AUROC of the toy study's task at a site, with an interval of .05 to both sides."""
    row = {
        "site": site,
        "role": role,
        "task": "mace",
        "label": "",
        "modalities": "all",
        "model": "federated",
        "metric": "auroc",
        "value": value,
        "ci_low": None if value is None else value - 0.05,
        "ci_high": None if value is None else value + 0.05,
        "n": 40,
        "events": None,
    }
    return EvaluationRow(**row | changes)


@pytest.fixture
def told():
    return build_row


@pytest.fixture
def make_plan(make_study, tmp_path: Path):
    def make(design: Design, seeds: tuple[int, ...] = (), **changes) -> DesignPlan:
        path = tmp_path / "study.toml"
        write_model(path, make_study(**changes), header="test")
        return plan_design(path, design, seeds=seeds)

    return make


@pytest.fixture
def finished(make_fleet, initial, tmp_path: Path):
    def finish(plan: DesignPlan, rows) -> dict[str, Results]:
        found = {}
        for derived in plan.studies:
            run = RunDirectory(tmp_path / "made" / derived.study.name)
            run.path.mkdir(parents=True)
            fleet = make_fleet(derived.study)
            results = run_study(study=derived.study, fleet=fleet, run=run, initial=initial, log=lambda _: None)
            evaluation = tuple(rows(derived.arm, site, plan.role) for site, plan in derived.study.sites.items())
            found[derived.arm] = results.model_copy(update={"evaluation": evaluation})
        return found

    return finish
