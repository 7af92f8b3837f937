"""One federation of small synthetic sites that asks for all that tells how a model reads its inputs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from in_process import federate

from fl_server.report.page import write_report
from fl_shared.models.systems import opened
from fl_shared.results import Results
from fl_shared.site import load_site
from fl_shared.study import Study, load_study
from fl_sites.study_file import plan_sites
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.plans import QUICK

SITES = ("alpha", "beta", "gamma")
ASKED = {
    "bootstrap": 100, "subsets": "every", "hidden": [0.5, 1.0], "hidden_of": ["ecg"], "subgroups": ["paired"],
    "feature_groups": {"frame": ["age", "sex"]},
}  # fmt: skip


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    """An ECG, which a third lacks, and a table; gamma judges. Of patients who lack it, half are trained on."""
    sites = tmp_path_factory.mktemp("reading") / "sites"
    synthesize(sites, sites=SITES, patients=150, seed=3, modalities=QUICK)
    for name in SITES:
        site = load_site(sites / name / "site.toml")
        table = pd.read_csv(site.samples_path, dtype=str, encoding=site.encoding)
        table.loc[::3, site.modalities["ecg"].column] = None
        table.to_csv(site.samples_path, index=False, encoding=site.encoding)
    found = load_study(sites / "study.toml")
    body = opened(found.model_dump(mode="json", by_alias=True, exclude_none=True))
    task = next(name for name, plan in found.tasks.items() if plan.type == "binary")
    body |= {"name": "reading", "privacy": {"mode": "none"}, "rounds": {"quorum": 1, "deadline": 300.0}}
    body["modalities"] = {name: body["modalities"][name] for name in ("ecg", "ehr")}
    body["tasks"] = {task: body["tasks"][task]}
    body["training"] |= {"rounds": 1, "steps": 2, "batch": 16, "encoders": "shared", "unpaired": 0.5}
    body["evaluation"] |= ASKED
    ids = {name: pd.read_csv(sites / "truth" / f"{name}.csv", dtype=str)["patient_id"] for name in SITES}
    for name, plan in plan_sites(ids, external=None, plan=found.evaluation).items():
        body["sites"][name] = {"role": "external" if name == "gamma" else "train", "patients": plan.patients}
    return Study.model_validate(body), sites


@pytest.fixture(scope="module")
def results(study: tuple[Study, Path], tmp_path_factory: pytest.TempPathFactory) -> Results:
    return federate(study[0], sites=study[1], folder=tmp_path_factory.mktemp("run"))


@pytest.mark.integration
def test_all_of_it_reaches_the_results(study: tuple[Study, Path], results: Results, tmp_path: Path) -> None:
    assert [r.outcome for r in results.rounds] == ["committed"] * 2
    assert results.study.hidden_of == ("ecg",)
    outside = [row for row in results.evaluation if row.site == "gamma" and row.metric == "auroc"]
    told = {row.subgroup: row for row in outside if row.modalities == "all"}
    assert told.keys() == {"", "hidden=0.5", "hidden=1", "paired=yes", "paired=no"}
    whole = told[""]
    assert whole.n is not None and whole.n > 100
    assert {told[name].n for name in ("hidden=0.5", "hidden=1")} == {whole.n}
    assert all(row.value is not None for row in told.values())
    assert (told["paired=yes"].n or 0) + (told["paired=no"].n or 0) == whole.n and (told["paired=no"].n or 0) > 40
    attended = {part.modality: part for part in results.attention if part.site == "gamma"}
    assert attended.keys() == {"ecg", "ehr"} and {part.n for part in attended.values()} == {whole.n}
    assert sum(part.value for part in attended.values()) == pytest.approx(1, abs=0.011)
    [worth] = [part for part in results.importance if part.site == "gamma"]
    assert worth.group == "frame" and worth.n == whole.n and worth.ci_low <= worth.value <= worth.ci_high
    assert {part.site for part in results.attention} == {part.site for part in results.importance} == set(SITES)
    write_report(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for words in ("What the fusion attends to", "Groups of fields", "every modality there", "share of ecg hidden"):
        assert words in page, words
    assert Results.model_validate_json(results.model_dump_json(by_alias=True)) == results
