"""A finished model is judged at a hospital that joined later, alone and beside a second one; nothing is trained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import federate
from typer.testing import CliRunner

from fl_client.approval import approve_study
from fl_client.cli import app
from fl_client.payment import site_ledger
from fl_client.service import SiteService
from fl_client.training.actors import LocalPool
from fl_server.comparison.fleet import OwnSites
from fl_server.promotion.source import Source, read_source
from fl_server.report.page import write_report
from fl_server.simulation import simulated_site
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.judged import judging_study, travelling
from fl_shared.model_bundle import write_bundle
from fl_shared.model_card import describe
from fl_shared.model_signature import ensure_signing_key, fingerprint
from fl_shared.models.systems import opened
from fl_shared.results import Results
from fl_shared.study import Study, load_study
from fl_shared.wire import Code, Reply, Request, digest, to_npy
from fl_sites.synthetic.cohort import synthesize

SITES = ("aachen", "bern", "nanjing", "wuhan")  # the last one joins later


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("later") / "sites"
    synthesize(out, sites=SITES, patients=160, seed=1, modalities=("ehr",))
    return out


def training(cohort: Path, **changes: Any) -> Study:
    """The first three hospitals; ``encoders`` stay local and their mean is released."""
    body = opened(load_study(cohort / "study.toml").model_dump(mode="json", by_alias=True, exclude_none=True))
    body["sites"] = {n: {"role": "train", "patients": 160} for n in SITES[:2]} | {SITES[2]: {"role": "external"}}
    body["rounds"] |= {"quorum": 2}
    body["training"] |= {"rounds": 2, "steps": 4, "batch": 32, "encoders": "local"}
    body["evaluation"] |= {"bootstrap": 100}
    body["privacy"] = {"mode": "none"}
    for key, values in changes.items():
        body[key] = {**body[key], **values} if isinstance(values, dict) else values
    return Study.model_validate(body)


@pytest.fixture(scope="session")
def runs(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[tuple[Results, Source], ...]:
    """Results and model of two trainings; the second is of another system and learns more."""
    made = []
    for study in (
        training(cohort),
        training(cohort, seed=3, model={"system": "medfuse"}, training={"encoders": "shared", "rounds": 6}),
    ):
        folder = tmp_path_factory.mktemp("trained")
        results = federate(study, sites=cohort, folder=folder)
        made.append((results, read_source(folder / "run")))
    return tuple(made)


def rows_of(results: Results, site: str) -> dict[tuple[str, ...], Any]:
    return {
        (row.task, row.label, row.modalities, row.subgroup, row.metric): (row.value, row.ci_low, row.ci_high, row.n)
        for row in results.evaluation
        if row.site == site and row.model == "federated"
    }


@pytest.mark.integration
def test_a_site_that_joined_later_judges_the_model(cohort: Path, runs: Any, tmp_path: Path) -> None:
    (results, source), _ = runs
    study = judging_study(source.finished, sites=["wuhan", "nanjing"])
    later = federate(study, sites=cohort, folder=tmp_path, initial=source.finished.arrays)
    assert rows_of(later, "nanjing") == rows_of(results, "nanjing") != {}  # the very model that was judged then
    assert {row.site for row in later.evaluation} == {"nanjing", "wuhan"}
    assert any(row.value is not None for row in later.evaluation if row.site == "wuhan")
    assert all(row.role == "external" for row in later.evaluation)
    assert [r.round for r in later.rounds] == [0] and later.differences == ()
    assert later.study.judged == source.finished.identity == results.study.hash and results.study.judged == ""
    assert later.summaries and later.privacy.epsilon_spent == {}
    assert any(note.startswith("Nothing was trained") and "aachen, bern" in note for note in later.notes)
    assert not any(part.exists() for part in tmp_path.glob("sites/*/state/local/*"))
    write_report(later, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "a finished model judged at 2 hospitals" in page and "trained across 0" not in page
    with pytest.raises(ConsiliumError, match="only judged a model"):
        read_source(tmp_path / "run")


@pytest.mark.integration
def test_two_models_are_compared_on_the_same_patients(cohort: Path, runs: Any, tmp_path: Path) -> None:
    (_, first), (_, second) = runs
    study = judging_study(second.finished, sites=["wuhan"], against=first.finished)
    both = travelling(second.finished.arrays, first.finished.arrays)
    told = federate(study, sites=cohort, folder=tmp_path, initial=both)
    alone = {
        name: rows_of(federate(made, sites=cohort, folder=tmp_path / name, initial=source.finished.arrays), "wuhan")
        for name, source in (("first", first), ("second", second))
        for made in [judging_study(source.finished, sites=["wuhan"])]
    }
    assert rows_of(told, "wuhan") == alone["second"]
    assert {d.against for d in told.differences} == {"against"} and {d.model for d in told.differences} == {"federated"}
    given = [d for d in told.differences if d.value is not None]
    assert {"auroc", "brier"} <= {d.metric for d in given}
    for d in given:
        assert d.ci_low is not None and d.ci_high is not None and d.ci_low <= d.value <= d.ci_high
        if d.label != "macro":  # of labels that either model lacks, a mean may be of fewer
            key = (d.task, d.label, d.modalities, "", d.metric)
            expected = alone["second"][key][0] - alone["first"][key][0]
            assert d.value == pytest.approx(expected, abs=2e-4 if abs(expected) < 2 else abs(expected) * 2e-3), key


@pytest.mark.integration
def test_no_other_model_is_judged_and_nobody_trains(cohort: Path, runs: Any, tmp_path: Path) -> None:
    (_, source), (_, other) = runs
    study = judging_study(source.finished, sites=["wuhan"])
    site = simulated_site(cohort, tmp_path, "wuhan")
    record = approve_study(site, study, file="eval.toml")
    assert record.rounds == 0 and record.trust == () and record.leaves == ("metrics and curves (aggregates)",)
    assert any("nothing is trained" in note for note in record.notes)
    (upstream,) = record.upstream
    assert upstream.provenance == "disjoint" and "aachen, bern" in upstream.why
    service = SiteService(site, LocalPool(site))

    def ask(kind: str, arrays: Any, **fields: Any) -> Reply:
        request = Request(kind=kind, study=study.identity, base=digest(arrays), **fields)
        text, out = service.handle(request.model_dump_json(), {name: to_npy(a) for name, a in arrays.items()})
        assert out == {}
        return Reply.model_validate_json(text)

    arrays = dict(source.finished.arrays)
    name = next(n for n, a in arrays.items() if a.dtype == np.float32)
    nudged = arrays | {name: np.nextafter(arrays[name], np.float32(np.inf))}
    assert ask("evaluate", nudged).code is Code.MODEL_DIFFERS
    assert ask("evaluate", {n: a for n, a in arrays.items() if n != name}).status == "refused"
    assert ask("evaluate", travelling(arrays, other.finished.arrays)).status == "refused"
    for kind in ("train", "encoders", "statistics", "recalibrate", "keys"):
        assert ask(kind, {}, round=1).code is Code.WRONG_ROLE
    first = ask("evaluate", arrays)
    assert first.status == "ok" and first.evaluation and ask("evaluate", arrays).evaluation == first.evaluation
    with pytest.raises(ConsiliumError) as caught:  # nor does the coordinator send another
        federate(study, sites=cohort, folder=tmp_path / "other", initial=nudged)
    assert caught.value.code is ExitCode.STUDY


@pytest.mark.integration
def test_metrics_are_noised_and_paid_for_where_the_study_says_so(cohort: Path, runs: Any, tmp_path: Path) -> None:
    (_, source), _ = runs
    body = source.finished.study.model_dump(mode="json", by_alias=True)
    body["privacy"] |= {"mode": "patient", "epsilon": 8.0}
    body["evaluation"] |= {"epsilon": 4.0}
    private = replace(source.finished, study=Study.model_validate(body))
    study = judging_study(private, sites=["wuhan"])
    told = federate(study, sites=cohort, folder=tmp_path, initial=source.finished.arrays)
    assert told.privacy.mode == "patient" and told.privacy.evaluation_epsilon == 4.0 and told.curves == ()
    assert any("noised" in row.note for row in told.evaluation)
    rows = site_ledger(simulated_site(cohort, tmp_path / "sites", "wuhan")).rows()
    assert [row.purpose for row in rows if row.state == "COMMITTED"] == ["evaluation"]


@pytest.mark.integration
def test_who_trained_it_under_another_name_is_found_out(cohort: Path, runs: Any, tmp_path: Path) -> None:
    (_, source), _ = runs
    site = simulated_site(cohort, tmp_path, "wuhan")
    traced = site.state_dir / "outbox" / source.finished.identity
    traced.mkdir(parents=True)
    (traced / "round_1-0.safetensors").write_bytes(b"")
    with pytest.raises(ConsiliumError, match="this site trained the model") as caught:
        approve_study(site, judging_study(source.finished, sites=["wuhan"]), file="eval.toml")
    assert caught.value.code is ExitCode.NOT_APPROVED


@pytest.mark.integration
def test_a_site_that_requires_privacy_of_training_still_judges(cohort: Path, runs: Any, tmp_path: Path) -> None:
    (_, source), _ = runs
    assert source.finished.study.privacy.mode == "none"
    site = simulated_site(cohort, tmp_path, "wuhan")
    closed = site.model_copy(update={"privacy": site.privacy.model_copy(update={"allow_without_privacy": False})})
    study = judging_study(source.finished, sites=["wuhan"])
    approve_study(closed, study, file="eval.toml")
    fleet = OwnSites({"wuhan": SiteService(closed, LocalPool(closed))})
    arrays = source.finished.arrays
    request = Request(kind="evaluate", study=study.identity, base=digest(arrays))
    (reply, _) = fleet.ask({"wuhan": (request, arrays)}, deadline=60, arrived=lambda _: None)["wuhan"]
    assert reply.status == "ok" and reply.evaluation


@pytest.fixture(scope="session")
def bundle(runs: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The first model as a signed bundle, and the key to trust."""
    (results, source), _ = runs
    folder = tmp_path_factory.mktemp("bundle")
    private, public = ensure_signing_key(folder / "keys")
    model = source.finished
    card = describe(study=model.study, results=results, arrays=model.arrays, round=source.round)
    write_bundle(
        folder / "model", canonical=source.canonical, arrays=model.arrays, card=card, results=results, private=private
    )
    return folder / "model", public


def at_site(cohort: Path, site: str, *words: str) -> Any:
    return CliRunner().invoke(
        app, ["--site", site, "--sites-dir", str(cohort), "evaluate", *words], env={"COLUMNS": "200"}
    )


@pytest.mark.integration
def test_a_hospital_judges_a_bundle_by_itself(cohort: Path, runs: Any, bundle: Any, tmp_path: Path) -> None:
    (_, source), _ = runs
    folder, public = bundle
    words = ("--model", str(folder), "--trust", str(public))
    done = at_site(cohort, "wuhan", *words, "--report", str(tmp_path / "judged.html"), "--format", "json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    offline = Results.model_validate({k: v for k, v in told.items() if k not in ("kept", "signer")})
    assert told["signer"] == fingerprint(public)
    assert Results.model_validate_json(Path(told["kept"]).read_bytes()) == offline
    study = judging_study(source.finished, sites=["wuhan"])
    online = federate(study, sites=cohort, folder=tmp_path / "fleet", initial=source.finished.arrays)
    assert rows_of(offline, "wuhan") == rows_of(online, "wuhan") != {}  # as if the coordinator had asked
    page = (tmp_path / "judged.html").read_text()
    assert "SYNTHETIC" in page and source.finished.identity in page and "://" not in page
    log = (cohort / "wuhan" / "state" / "audit.jsonl").read_text()
    assert "evaluate-offline" in log and not (cohort / "wuhan" / "state" / "egress.jsonl").exists()
    text = at_site(cohort, "wuhan", *words).stdout
    assert "Judged at this site" in text and "AUROC" in text and "Nothing was sent" in text


@pytest.mark.integration
def test_an_unverified_bundle_is_judged_only_when_that_is_said(cohort: Path, bundle: Any, tmp_path: Path) -> None:
    folder, public = bundle
    _, other = ensure_signing_key(tmp_path / "other")
    for words, code in (
        ((), ExitCode.USAGE),
        (("--trust", str(public), "--unsigned"), ExitCode.USAGE),
        (("--trust", str(other)), ExitCode.CHECKPOINT),
    ):
        refused = at_site(cohort, "wuhan", "--model", str(folder), *words)
        assert isinstance(refused.exception, ConsiliumError) and refused.exception.code is code
    done = at_site(cohort, "wuhan", "--model", str(folder), "--unsigned", "--report", str(tmp_path / "judged.html"))
    assert done.exit_code == 0 and "UNSIGNED MODEL" in done.stdout
    assert "UNSIGNED MODEL" in (tmp_path / "judged.html").read_text()


@pytest.mark.integration
def test_who_trained_a_bundle_does_not_judge_it(cohort: Path, bundle: Any) -> None:
    refused = at_site(cohort, "aachen", "--model", str(bundle[0]), "--trust", str(bundle[1]))
    assert isinstance(refused.exception, ConsiliumError) and "it trained this model" in str(refused.exception)
