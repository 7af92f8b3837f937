"""A model is handed on when every threshold of its study is met; what is unknown is not met, and nothing is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fl_server.checkpoint import RunDirectory
from fl_server.cli import app
from fl_server.launch import STUDY
from fl_server.promotion.requirements import requirements
from fl_server.promotion.source import read_source
from fl_server.rounds import run_study
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.model_bundle import read_bundle
from fl_shared.results import EvaluationRow, Results, Summary
from fl_shared.wire import digest

AUROC = {"task": "mace", "metric": "auroc", "at_least": 0.65, "of": "estimate"}
SITES = {"davos": {"role": "external"}, "emden": {"role": "external"}}


@pytest.fixture
def run(make_study, make_fleet, initial, tmp_path):
    """Makes a finished run with thresholds; every site tells AUROC 0.7 (0.6 to 0.8)."""

    def make(name: str = "run", **promotion: Any) -> Path:
        changes = {"promotion": promotion} if promotion else {}
        study = make_study(sites=SITES, evaluation={"subgroups": ["sex"]}, **changes)
        directory = RunDirectory(tmp_path / "runs" / name)
        directory.path.mkdir(parents=True)
        (directory.path / STUDY).write_text(study.model_dump_json(by_alias=True))
        run_study(study=study, fleet=make_fleet(study), run=directory, initial=initial, log=lambda _: None)
        return directory.path

    return make


def promoted(folder: Path, home: Path, *more: str) -> tuple[int, dict[str, Any]]:
    done = CliRunner().invoke(app, ["promote", str(folder), "--home", str(home), "--format", "json", *more])
    if isinstance(done.exception, ConsiliumError):
        raise done.exception
    return done.exit_code, json.loads(done.stdout)


def test_a_model_that_meets_its_thresholds_becomes_a_signed_bundle(run, tmp_path):
    folder = run(discrimination=[AUROC, AUROC | {"at": "worst"}, AUROC | {"at": "summary"}])
    code, told = promoted(folder, tmp_path / "home")
    assert code == 0 and told["met"] and [one["met"] for one in told["requirements"]] == [True] * 4
    assert [one["site"] for one in told["requirements"][:2]] == ["davos", "emden"]
    bundle = read_bundle(Path(told["bundle"]), trust=Path(told["public_key"]))
    source = read_source(folder)
    assert digest(bundle.arrays) == digest(source.finished.arrays) and set(bundle.arrays) > {"encoders.ecg.weight"}
    assert bundle.card.study == told["hash"] == source.finished.identity == bundle.results.study.hash
    assert bundle.card.round == 3 and bundle.signer == told["fingerprint"]
    assert [one.met for one in bundle.card.requirements] == [True] * 4
    again = read_source(Path(told["bundle"]), trust=Path(told["public_key"]))  # evaluate takes either
    assert again.finished.identity == source.finished.identity and again.canonical == source.canonical
    with pytest.raises(ConsiliumError, match="exists already"):
        promoted(folder, tmp_path / "home")
    with pytest.raises(ConsiliumError, match="say whom you trust"):
        read_source(Path(told["bundle"]))


@pytest.mark.parametrize(
    ("limits", "met"),
    [
        ({"discrimination": [AUROC | {"at_least": 0.71}]}, [False, False]),
        ({"discrimination": [AUROC | {"of": "interval"}]}, [False, False]),  # 0.6 is not 0.65
        ({"discrimination": [AUROC | {"of": "interval", "at_least": 0.6}]}, [True, True]),
        ({"calibration": [{"task": "mace", "slope": [0.8, 1.2]}]}, [None, None]),  # nobody tells it
        ({"discrimination": [{"task": "mace", "metric": "brier", "at_most": 0.2}]}, [None, None]),
        ({"subgroups": [{"task": "mace", "metric": "auroc", "by": "sex", "at_most": 0.1}]}, [None, None]),
    ],
)
def test_a_threshold_that_is_missed_or_unknown_writes_nothing(run, tmp_path, limits, met):
    folder = run(**limits)
    code, told = promoted(folder, tmp_path / "home", "--out", str(tmp_path / "out"))
    good = all(met)
    assert code == (0 if good else ExitCode.NOT_PROMOTED) and told["met"] is good
    assert [one["met"] for one in told["requirements"]] == met
    assert (tmp_path / "out").exists() is good and (tmp_path / "home").exists() is good
    text = CliRunner().invoke(app, ["promote", str(folder), "--home", str(tmp_path / "home")], env={"COLUMNS": "200"})
    assert ({True: "met", False: "missed", None: "unknown"}[met[0]]) in text.stdout


def test_a_study_without_thresholds_says_what_to_add(run, tmp_path):
    with pytest.raises(ConsiliumError, match=r"\[\[promotion.discrimination\]\]") as caught:
        promoted(run(), tmp_path)
    assert caught.value.code is ExitCode.STUDY


def test_thresholds_changed_after_the_run_are_found(run, tmp_path):
    folder = run(discrimination=[AUROC | {"at_least": 0.9}])
    body = json.loads((folder / STUDY).read_text())
    body["promotion"]["discrimination"][0]["at_least"] = 0.5
    (folder / STUDY).write_text(json.dumps(body))
    with pytest.raises(ConsiliumError, match=r"is not the one that results\.json is of") as caught:
        promoted(folder, tmp_path)
    assert caught.value.code is ExitCode.CHECKPOINT


def test_a_run_that_has_not_finished_or_lost_its_model_is_refused(run, tmp_path):
    folder = run(discrimination=[AUROC])
    (folder / "final" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConsiliumError, match="no federated model that verifies"):
        promoted(folder, tmp_path)
    (folder / "results.json").unlink()
    with pytest.raises(ConsiliumError, match="has not finished"):
        promoted(folder, tmp_path)


def row(site: str, value: float | None, **changes: Any) -> EvaluationRow:
    given = {
        "site": site,
        "role": "external",
        "task": "mace",
        "label": "",
        "modalities": "all",
        "model": "federated",
        "metric": "auroc",
        "value": value,
        "ci_low": None if value is None else value - 0.05,
        "ci_high": None if value is None else value + 0.05,
        "n": 100,
        "events": 20,
    }
    return EvaluationRow.model_validate(given | changes)


def judged(make_study, results: Results, rows: list[EvaluationRow], *, worst: str = "", **promotion: Any) -> list:
    study = make_study(sites=SITES, evaluation={"subgroups": ["sex"]}, promotion=promotion)
    summary = Summary(
        task="mace", label="", modalities="all", model="federated", metric=rows[0].metric, role="external",
        sites=("davos", "emden"), value=0.75, ci_low=0.68, ci_high=0.8, worst=worst,
    )  # fmt: skip
    given = results.model_copy(update={"evaluation": tuple(rows), "summaries": (summary,)})
    return [(one.site, one.value, one.met) for one in requirements(study, given)]


@pytest.fixture
def results(run) -> Results:
    found = RunDirectory(run(discrimination=[AUROC])).read_results()
    assert found is not None
    return found


def test_figures_are_of_external_sites_whole_cohorts_and_the_model(make_study, results):
    others = [
        row("davos", 0.5, role="train"),
        row("davos", 0.5, subgroup="sex=female"),
        row("davos", 0.5, modalities="ecg"),
        row("davos", 0.5, model="recalibrated"),
        row("davos", 0.5, metric="auprc"),
        row("davos", 0.5, label="macro"),
    ]
    rows = [*others, row("davos", 0.8), row("emden", 0.7)]
    found = judged(make_study, results, rows, worst="emden", discrimination=[AUROC, AUROC | {"at": "worst"}])
    assert found == [("davos", 0.8, True), ("emden", 0.7, True), ("emden", 0.7, True)]
    (found,) = judged(make_study, results, rows, discrimination=[AUROC | {"at": "summary", "at_least": 0.76}])
    assert found == ("", 0.75, False)


def test_a_site_that_tells_nothing_leaves_the_worst_unknown(make_study, results):
    rows = [row("davos", 0.8), row("emden", None)]
    limits = [AUROC | {"at": "worst"}, AUROC]
    found = judged(make_study, results, rows, worst="davos", discrimination=limits)
    assert found == [("", None, None), ("davos", 0.8, True), ("emden", None, None)]


def test_calibration_lies_within_by_estimate_or_by_interval(make_study, results):
    rows = [row("davos", 1.1, metric="calibration_slope"), row("emden", 1.3, metric="calibration_slope")]
    limit = {"task": "mace", "slope": [0.8, 1.12]}
    assert judged(make_study, results, rows, calibration=[limit]) == [("davos", 1.1, True), ("emden", 1.3, False)]
    whole = judged(make_study, results, rows, calibration=[limit | {"of": "interval"}])
    assert [met for _, _, met in whole] == [False, False]  # 1.05 to 1.15 reaches beyond 1.12


def test_an_error_must_be_small(make_study, results):
    rows = [row("davos", 0.1, metric="brier"), row("emden", 0.2, metric="brier")]
    limit = {"task": "mace", "metric": "brier", "at_most": 0.16}
    found = judged(make_study, results, rows, discrimination=[limit])
    assert [met for _, _, met in found] == [True, False]  # upper ends 0.15 and 0.25


def test_subgroups_differ_by_at_most(make_study, results):
    told = {
        "davos": {"female": 0.80, "male": 0.74},
        "emden": {"female": 0.60, "male": 0.75},
    }
    rows = [row(site, value, subgroup=f"sex={sex}") for site, of in told.items() for sex, value in of.items()]
    limit = {"task": "mace", "metric": "auroc", "by": "sex", "at_most": 0.1}
    found = judged(make_study, results, rows, subgroups=[limit])
    assert found == [("davos", 0.06, True), ("emden", 0.15, False)]
    withheld = [*rows[:3], row("emden", None, subgroup="sex=male")]
    assert judged(make_study, results, withheld, subgroups=[limit])[1] == ("emden", None, None)
    three = [*rows, row("davos", None, subgroup="sex=other")]  # a group that is not told may be the worst
    assert judged(make_study, results, three, subgroups=[limit])[0] == ("davos", None, None)
