"""Learning curves of a federation: points of training sites, round by round, asked once, that disturb nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import federate

from fl_client.approval import approve_study, audit_log
from fl_client.egress_log import released, replay
from fl_client.service import SiteService
from fl_client.training.actors import LocalPool
from fl_server.checkpoint import RunDirectory
from fl_server.comparison.fleet import OwnSites
from fl_server.report.page import write_report
from fl_server.rounds import run_study
from fl_server.simulation import simulated_site
from fl_shared.models.build import build_model, select
from fl_shared.models.systems import opened
from fl_shared.results import EvaluationRow, Results
from fl_shared.study import Study, load_study
from fl_sites.synthetic.cohort import synthesize

SITES = ("aachen", "bern", "dalian", "nanjing")
TRAIN = SITES[:3]
HEADLINES = {"death": "auroc", "events": "auroc", "survival": "harrell_c"}


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("learning") / "sites"
    synthesize(out, sites=SITES, patients=160, seed=1, modalities=("ehr",))
    return out


def plan(cohort: Path, *, every: int = 1, **changes: Any) -> Study:
    body = opened(load_study(cohort / "study.toml").model_dump(mode="json", by_alias=True, exclude_none=True))
    body["sites"] = {n: {"role": "train", "patients": 160} for n in TRAIN} | {SITES[3]: {"role": "external"}}
    body["training"] |= {"rounds": 3, "steps": 4, "batch": 32, "encoders": "shared"}
    body["evaluation"] |= {"bootstrap": 100, "every": every}
    body["rounds"] |= {"quorum": 3}
    body["privacy"] = {"mode": "none"}
    for key, values in changes.items():
        body[key] = {**body[key], **values} if isinstance(values, dict) else values
    return Study.model_validate(body)


@pytest.fixture(scope="session")
def runs(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, tuple[Study, Results, Path]] = {}

    def run(name: str, **changes: Any) -> tuple[Study, Results, Path]:
        if name not in made:
            study, folder = plan(cohort, **changes), tmp_path_factory.mktemp(name)
            made[name] = study, federate(study, sites=cohort, folder=folder), folder
        return made[name]

    return run


def asked(folder: Path, cohort: Path, kind: str) -> dict[str, list[int]]:
    """Site -> the rounds of its answers to a kind of request."""
    sites = {name: simulated_site(cohort, folder / "sites", name) for name in SITES}
    return {n: [row["round"] for row in audit_log(s).rows() if row["action"] == kind] for n, s in sites.items()}


def final(results: Results) -> dict[tuple[str, str, str], EvaluationRow]:
    return {
        (row.site, row.task, row.label): row
        for row in results.evaluation
        if (row.modalities, row.model, row.subgroup) == ("all", "federated", "")
        and row.metric == HEADLINES.get(row.task)
        and row.value is not None
    }


@pytest.mark.integration
def test_every_round_has_a_point_of_each_training_site(runs: Any, cohort: Path) -> None:
    _, results, folder = runs("plain")
    assert {(p.site, p.round) for p in results.learning} == {(site, r) for site in TRAIN for r in (1, 2, 3)}
    assert {p.task: p.metric for p in results.learning}["death"] == "auroc"
    assert len({(p.round, p.site, p.task, p.label) for p in results.learning}) == len(results.learning)
    assert all(p.ci_low <= p.value <= p.ci_high for p in results.learning)
    told = asked(folder, cohort, "learning")
    assert told == {site: [1, 2] for site in TRAIN} | {"nanjing": []}  # the last round is the evaluation's
    rows = final(results)
    last = {(p.site, p.task, p.label): p for p in results.learning if p.round == 3}
    assert {(p.value, p.ci_low, p.ci_high) for p in last.values()} <= {
        (r.value, r.ci_low, r.ci_high) for r in rows.values()
    }
    assert set(last) == {key for key in rows if key[0] in TRAIN and rows[key].ci_low is not None} != set()


@pytest.mark.integration
def test_judging_between_rounds_leaves_the_model_as_it_is(runs: Any) -> None:
    (_, results, one), (_, quiet, other) = runs("plain"), runs("quiet", every=0)
    assert quiet.learning == ()
    files = [folder / "run/rounds/round_0003/model.safetensors" for folder in (one, other)]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert results.evaluation == quiet.evaluation


@pytest.mark.integration
def test_a_round_s_point_is_the_evaluation_of_a_study_that_ends_there(runs: Any) -> None:
    """Another way to the same number: the study stopped after round 2 and judged wholly."""
    (_, results, _), (_, short, _) = runs("plain"), runs("short", every=0, training={"rounds": 2})
    found = {(p.site, p.task, p.label): (p.value, p.ci_low, p.ci_high) for p in results.learning if p.round == 2}
    rows = {key: (r.value, r.ci_low, r.ci_high) for key, r in final(short).items() if key[0] in TRAIN}
    assert found and found == {key: rows[key] for key in found}


@pytest.mark.integration
def test_what_left_is_logged_and_replayed(runs: Any, cohort: Path) -> None:
    _, _, folder = runs("plain")
    site = simulated_site(cohort, folder / "sites", "aachen")
    assert [row.round for row in released(site) if row.what == "learning"] == [1, 2]
    kept = sorted((site.state_dir / "outbox").glob("*/learning_*.json"))
    assert len(kept) == 2 and replay(site).never_left == ()
    for file in kept:
        rows = json.loads(file.read_text())
        assert not any(rows[part] for part in rows if part != "evaluation")
        assert {row["modalities"] for row in rows["evaluation"]} == {"all"}
        assert {row["metric"] for row in rows["evaluation"] if row["task"] == "death"} == {"auroc"}


@pytest.mark.integration
def test_with_encoders_of_its_own_a_site_judges_what_it_runs(runs: Any, cohort: Path) -> None:
    """The evaluation is of the encoders' mean, the curve of each site's own: so the last round is asked for too."""
    _, results, folder = runs("local", training={"encoders": "local"})
    assert asked(folder, cohort, "learning") == {site: [1, 2, 3] for site in TRAIN} | {"nanjing": []}
    _, kept, _ = runs("kept", training={"encoders": "local", "final_encoders": "initial"})
    assert [p for p in results.learning if p.round < 3] == [p for p in kept.learning if p.round < 3]
    last = {(p.site, p.task, p.label): p.value for p in results.learning if p.round == 3}
    own = {key: row.value for key, row in final(kept).items()}  # judged with the site's own encoders
    mean = {key: row.value for key, row in final(results).items()}
    assert last and last == {key: own[key] for key in last} != {key: mean[key] for key in last}


@pytest.mark.integration
@pytest.mark.parametrize(
    "changes",
    [
        {"privacy": {"mode": "patient", "epsilon": 8.0, "aggregation": "secure"}},
        {"training": {"encoders": "shared", "local": ["heads", "norms"], "finetune": 2}},
        {"training": {"encoders": "frozen"}},
    ],
    ids=["private", "personal", "frozen"],
)
def test_under_every_policy(changes: dict[str, Any], runs: Any, cohort: Path, request: Any) -> None:
    _, results, folder = runs(request.node.callspec.id, every=2, **changes)
    assert {(p.site, p.round) for p in results.learning} >= {(site, 2) for site in TRAIN}
    assert {p.round for p in results.learning} == {2, 3}
    assert not {p.site for p in results.learning} - set(TRAIN)
    write_report(results, folder / "report.html")


@pytest.mark.integration
def test_a_resumed_run_asks_no_round_twice(runs: Any, cohort: Path, tmp_path: Path) -> None:
    """Ended after round 1 was judged, and after round 2 was committed and before it was: each is judged once."""
    _, whole, _ = runs("plain")
    study = plan(cohort)
    services = {}
    for name in SITES:
        site = simulated_site(cohort, tmp_path / "sites", name)
        approve_study(site, study, file="study.toml")
        services[name] = SiteService(site, LocalPool(site))
    run = RunDirectory(tmp_path / "run")

    class Stops(OwnSites):
        """The coordinator dies before it asks for a round in this way."""

        def __init__(self, kind: str, number: int) -> None:
            super().__init__(services)
            self.at = kind, number

        def ask(self, questions: Any, **more: Any) -> Any:
            if {(request.kind, request.round) for request, _ in questions.values()} == {self.at}:
                raise KeyboardInterrupt
            return super().ask(questions, **more)

    arguments = {"study": study, "run": run, "initial": select(build_model(study)), "log": lambda _: None}
    for at in (("train", 2), ("learning", 2)):
        with pytest.raises(KeyboardInterrupt):
            run_study(fleet=Stops(*at), **arguments)
    resumed = run_study(fleet=OwnSites(services), **arguments)
    assert asked(tmp_path, cohort, "learning") == {site: [1, 2] for site in TRAIN} | {"nanjing": []}
    assert resumed.learning == whole.learning
