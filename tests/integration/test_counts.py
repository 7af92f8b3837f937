"""A federation that counts, trains, recalibrates and judges, without privacy and with it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from in_process import federate

from fl_client.egress_log import released, replay
from fl_server.recalibration import planned_noise as recalibration_noise
from fl_server.report.page import write_report
from fl_server.simulation import simulated_site
from fl_server.statistics import planned_noise
from fl_shared.accounting import Event, epsilon
from fl_shared.models.systems import opened
from fl_shared.results import Results
from fl_shared.study import Study, is_held_out, load_study
from fl_sites.synthetic.cohort import EVALUATION, synthesize

SITES = ("aachen", "bern", "nanjing")
PARTS = {"statistics": 10.0, "recalibrate_epsilon": 40.0, "evaluation": 90.0}


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("counts") / "sites"
    synthesize(out, sites=SITES, patients=160, seed=1, modalities=("ehr",))
    for site in SITES:  # so that cohorts of this size show more than noise
        file = out / site / "site.toml"
        file.write_text(file.read_text().replace("epsilon_cap = 20.0", "epsilon_cap = 200.0"))
    return out


def counting(cohort: Path, *, private: bool) -> Study:
    """A model so strongly clipped (or so shortly trained) that it knows an order and no level."""
    body = opened(load_study(cohort / "study.toml").model_dump(mode="json", by_alias=True, exclude_none=True))
    body["seed"] = 4  # an initial model that expects twice the events that come
    body["training"] |= {"rounds": 2, "steps": 4, "batch": 32, "encoders": "shared"}
    body["training"] |= {"optimizer": "sgd", "learning_rate": 3e-4}
    body["statistics"] = {"modalities": ["ehr"], "tasks": ["death", "events"]}
    body["evaluation"] |= {"bootstrap": 100, "recalibrate": True}
    body["privacy"] = {"mode": "none"}
    if private:
        body["privacy"] = {"mode": "patient", "epsilon": 70.0, "clip": 0.001}
        body["statistics"] |= {"epsilon": PARTS["statistics"]}
        body["evaluation"] |= {"recalibrate_epsilon": PARTS["recalibrate_epsilon"], "epsilon": PARTS["evaluation"]}
    return Study.model_validate(body)


@pytest.fixture(scope="session")
def runs(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[bool, tuple[Study, Results, Path]] = {}

    def run(*, private: bool) -> tuple[Study, Results, Path]:
        if private not in made:
            study, folder = counting(cohort, private=private), tmp_path_factory.mktemp("run")
            made[private] = study, federate(study, sites=cohort, folder=folder), folder
        return made[private]

    return run


def value(results: Results, metric: str, model: str, *, site: str = "nanjing") -> float:
    (row,) = [
        row
        for row in results.evaluation
        if (row.site, row.task, row.modalities, row.metric, row.model) == (site, "death", "all", metric, model)
    ]
    assert row.value is not None, row.note
    return row.value


def truth(cohort: Path) -> pd.DataFrame:
    """Training patients of both training sites as the files hold them."""
    frames = []
    for site in SITES[:2]:
        frame = pd.read_csv(cohort / site / "samples.csv", dtype=str, encoding_errors="replace")
        mine = [not is_held_out(p, site=site, plan=EVALUATION) for p in frame["patient_id"]]
        frames.append(frame[mine])
    return pd.concat(frames)


@pytest.mark.integration
@pytest.mark.parametrize("private", [False, True], ids=["exact", "noised"])
def test_statistics_tell_the_training_patients(private: bool, runs: Any, cohort: Path) -> None:
    study, results, folder = runs(private=private)
    found = results.statistics
    assert json.loads((folder / "run/statistics.json").read_text())["identity"] == study.identity
    assert found.provenance == ("dp" if private else "local")
    patients = truth(cohort)["patient_id"].nunique()
    age = next(field for field in found.fields if field.field == "age")
    slack = 4 * planned_noise(study) * (2 * 67) ** 0.5
    assert age.n == pytest.approx(patients, abs=slack) if private else age.n == patients
    median = next(q for q in age.quantiles if q.share == 0.5)
    true = pd.to_numeric(truth(cohort)["age"], errors="coerce").median()
    assert median.low - 2 <= true <= median.high + 2  # one record a patient, where the file has several
    lines = tomllib.loads(found.lines)
    assert lines["constants_from"] == [study.identity]
    (weight,) = lines["tasks"]["death"]["weights"]
    death = next(label for label in found.labels if label.task == "death")
    assert weight == pytest.approx((1 - death.share) / death.share, rel=0.01)


@pytest.mark.integration
@pytest.mark.parametrize("private", [False, True], ids=["exact", "noised"])
def test_recalibration_mends_the_level_outside_and_leaves_the_order(private: bool, runs: Any) -> None:
    _, results, folder = runs(private=private)
    assert {shift.task for shift in results.shifts} == {"death", "events"}
    before, after = (value(results, "expected_observed", model) for model in ("federated", "recalibrated"))
    assert before > 2
    assert 0.7 <= after <= 1.4 if private else 0.8 <= after <= 1.25  # noised twice: refitted, and judged
    orders = [value(results, "auroc", model) for model in ("federated", "recalibrated")]
    if private:
        assert orders[0] == pytest.approx(orders[1], abs=0.35)  # each noised for itself, and of 160 patients
    else:
        assert orders[0] == orders[1]
    assert (folder / "run/recalibrated/manifest.json").exists()
    write_report(results, folder / "report.html")
    page = (folder / "report.html").read_text()
    assert 'id="recalibration"' in page and 'id="statistics"' in page and "constants_from" in page


@pytest.mark.integration
def test_with_privacy_every_count_is_in_the_ledger(runs: Any, cohort: Path) -> None:
    study, results, folder = runs(private=True)
    for name in SITES:
        site = simulated_site(cohort, folder / "sites", name)
        rows = [json.loads(line) for line in (site.state_dir / "ledger.jsonl").read_text().splitlines()]
        paid = [row for row in rows if row["state"] == "RESERVED"]
        purposes = [row["purpose"] for row in paid]
        judged = ["evaluation"] * 2
        trained = ["statistics", "training", "training", "evaluation", "recalibration", "evaluation"]
        assert purposes == (judged if name == "nanjing" else trained)
        assert [row["state"] for row in rows if row["state"] != "RESERVED"] == ["COMMITTED"] * len(paid)
        for part, limit in (("evaluation", 90.0), ("other", 70.0)):
            events = [
                Event(row["q"], row["sigma"], row["steps"])
                for row in paid
                if (row["purpose"] == "evaluation") == (part == "evaluation")
            ]
            assert epsilon(events, delta=study.privacy.delta) <= limit
        if name != "nanjing":
            spent = results.privacy.epsilon_spent[name]
            assert 60 < spent <= 70.0
        found = replay(site)
        assert found.rows == found.matched == len(released(site)) and found.never_left == ()
    for row in results.evaluation:
        assert row.value is None or row.note.startswith("noised: epsilon 90 of the judged patients")
    assert results.curves == ()
    assert recalibration_noise(study, {"death": "", "events": ""}) > 0


@pytest.mark.integration
def test_without_privacy_no_count_tells_a_small_cell(runs: Any, cohort: Path) -> None:
    _, results, folder = runs(private=False)
    from safetensors.numpy import load_file

    for name in SITES[:2]:
        site = simulated_site(cohort, folder / "sites", name)
        (outbox,) = (site.state_dir / "outbox").iterdir()
        for kind in ("statistics", "recalibrate"):
            (file,) = outbox.glob(f"{kind}-*.safetensors")
            for cells in load_file(file).values():
                assert ((cells == 0) | (cells >= 10)).all()
        assert (site.state_dir / "ledger.jsonl").read_bytes() == b""
    assert {curve.model for curve in results.curves} == {"federated", "recalibrated"}
