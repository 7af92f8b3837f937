"""A comparison on real site folders, by its command: cells by Ray, differences, results, once more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fl_client.data.load import load_cohort
from fl_server.comparison.cohorts import SharedPool, SharedReader
from fl_shared.models.systems import opened
from fl_shared.site import load_site
from fl_shared.study import Study, load_study
from fl_sites.study_file import plan_sites, write_model
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.plans import QUICK

SITES = ("alpha", "beta", "gamma")
GRID = """schema = 1
name = "grid"
study = "tiny.toml"
modes = ["federated", "epsilon_8"]
[variants.attention]
[variants.joint]
study = {model = {system = "baselines", fusion = "joint"}}
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of table and ECG over three small synthetic hospitals; gamma judges."""
    folder = tmp_path_factory.mktemp("comparison")
    synthesize(folder / "sites", sites=SITES, patients=60, seed=3, modalities=QUICK)
    study = load_study(folder / "sites" / "study.toml")
    body = opened(study.model_dump(mode="json", by_alias=True, exclude_none=True))
    body |= {"name": "tiny", "privacy": {"mode": "none"}, "rounds": {"quorum": 1, "deadline": 300.0}}
    body["modalities"] = {name: body["modalities"][name] for name in ("ecg", "ehr")}
    body["tasks"] = {"death": body["tasks"]["death"]}
    body["training"] |= {"rounds": 1, "steps": 2, "batch": 8, "encoders": "shared"}
    body["evaluation"] |= {"bootstrap": 100}
    ids = {name: pd.read_csv(folder / "sites" / "truth" / f"{name}.csv", dtype=str)["patient_id"] for name in SITES}
    for name, plan in plan_sites(ids, external=None, plan=study.evaluation).items():
        body["sites"][name] = {"role": "external" if name == "gamma" else "train", "patients": plan.patients}
    write_model(folder / "tiny.toml", Study.model_validate(body), header="test")
    (folder / "grid.toml").write_text(GRID, encoding="utf-8")
    return folder


def run(folder: Path, *words: str) -> tuple[dict[str, Any], str]:
    command = [sys.executable, "-m", "fl_server.cli", "compare-systems", "grid.toml", *words, "--format", "json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


@pytest.mark.integration
def test_cells_by_ray_and_variants_beside_the_reference(written: Path) -> None:
    result, _ = run(written, "--workers", "2")
    assert [cell["state"] for cell in result["cells"]] == ["finished"] * 4
    assert result["workers"] == 2 and result["wall_seconds"] > 0 and result["synthetic"]
    spent = {cell["mode"]: cell["epsilon_spent"] for cell in result["cells"] if cell["variant"] == "joint"}
    assert not spent["federated"] and all(0 < spent["epsilon_8"][site] <= 8 for site in ("alpha", "beta"))
    places = {(n["variant"], n["mode"], n["role"], n["site"]) for n in result["numbers"] if n["value"] is not None}
    for variant in ("attention", "joint"):
        for mode in ("federated", "epsilon_8"):
            assert {(variant, mode, "external", ""), (variant, mode, "external", "gamma")} <= places
    told = [c for c in result["contrasts"] if c["metric"] == "auroc" and c["modalities"] == "all" and c["site"] == ""]
    assert {(c["variant"], c["against"], c["mode"], c["role"]) for c in told} == {
        ("joint", "attention", "federated", "external"), ("joint", "attention", "epsilon_8", "external")
    }  # fmt: skip
    at = {(n["variant"], n["mode"]): n["value"] for n in result["numbers"] if _same(n, told[0])}
    for one in told:  # the same patients, so the difference of the two models' numbers
        assert one["value"] == pytest.approx(at["joint", one["mode"]] - at["attention", one["mode"]], abs=2e-4)
        assert one["low"] < one["value"] < one["high"] and 0 < one["p"] <= 1
    page = (written / "runs" / "grid" / "report.html").read_text(encoding="utf-8")
    assert "joint" in page and "SYNTHETIC" in page
    assert not list((written / "sites" / "alpha").glob("state/ledger*"))  # nothing of a hospital's but its cache
    again, said = run(written, "--workers", "2")
    assert again == result and "4 of 4 cells have finished before" in said


def _same(number: dict[str, Any], contrast: dict[str, Any]) -> bool:
    keys = ("role", "site", "task", "label", "modalities", "subgroup", "metric")
    return all(number[key] == contrast[key] for key in keys)


def test_a_cohort_is_read_once_for_all_that_want_the_same(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def counted(site: Any, study: Study, **options: Any) -> Any:
        read.append(site.name)
        return load_cohort(site, study, **options)

    monkeypatch.setattr("fl_server.comparison.cohorts.load_cohort", counted)
    study, reader = load_study(written / "tiny.toml"), SharedReader()
    site, other = (load_site(written / "sites" / name) for name in ("alpha", "beta"))
    first = reader(site, study)
    wide = Study.model_validate({**study.model_dump(by_alias=True), "name": "wide", "seed": 9})
    assert reader(site, wide) is first and read == ["alpha"]
    pool = SharedPool(members=(site, other), read=reader)(site.model_copy(update={"name": "pooled"}), wide)
    assert read == ["alpha", "beta"] and pool.site == "pooled" and len(pool) > len(first)
    body = study.model_dump(mode="json", by_alias=True, exclude_none=True)
    body["evaluation"]["salt"] = "another salt"  # other patients are held out
    assert reader(site, Study.model_validate(body)) is not first
