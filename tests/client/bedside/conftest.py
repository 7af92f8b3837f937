"""A hospital of synthetic patients that never joined, and a signed bundle of a small model trained elsewhere."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from fl_client.bedside.opened import Opened, open_model
from fl_client.data.load import load_cohort
from fl_client.training.rows import as_batch
from fl_shared.model_bundle import write_bundle
from fl_shared.model_card import describe
from fl_shared.model_signature import ensure_signing_key
from fl_shared.models.build import build_model, select
from fl_shared.models.interface import take
from fl_shared.results import Curve, EvaluationRow, PrivacyResult, Results, StudyResult
from fl_shared.site import Site, load_site
from fl_shared.study import Study
from fl_sites.study_file import LEADS
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.outcomes import FOLLOW_UP

HERE = "gamma"  # an English-speaking hospital
PATIENTS = 12


@dataclass(frozen=True, kw_only=True)
class Made:
    """folder: of all sites; bundle and key: of the model. whole: a patient with all inputs; half: with two of four
    (one file is broken); empty: with none.
    """

    folder: Path
    bundle: Path
    key: Path
    whole: str
    half: str
    empty: str

    def site(self) -> Site:
        return load_site(self.folder / HERE)

    def opened(self) -> Opened:
        return open_model(self.bundle, self.site(), trust=self.key)


def study_of(**changes: object) -> Study:
    timed = {"type": "survival", "windows": [30.0, 365.0]}
    body = {
        "schema": 1,
        "name": "elsewhere",
        "seed": 3,
        "synthetic": True,
        "sites": {"north": {"role": "train", "patients": 100}, "south": {"role": "external"}},
        "tasks": {
            "survival": timed,
            "death": {"type": "binary"},
            "follow_up": {"type": "multiclass", "labels": list(FOLLOW_UP)},
            "length_of_stay": {"type": "regression", "offset": 5.0, "scale": 4.0},
            "death_by_cause": {"type": "competing", "labels": ["cardiac", "other"], "windows": [180.0]},
            "fibrosis": {"type": "segmentation", "modality": "cine", "labels": ["myocardium", "fibrosis"]},
        },
        "modalities": {
            "cine": {"kind": "cine", "frames": 4, "slices": 1, "size": 32, "field_of_view": 160.0},
            "ecg": {"kind": "waveform", "leads": LEADS, "rate": 100.0, "seconds": 10.0},
            "ehr": {"kind": "table", "fields": ["age", "sex", "lvef", "nt_probnp", "qtc"]},
            "text": {"kind": "text", "max_tokens": 256},
        },
        "model": {"width": 16, "heads": 2},
        "training": {"rounds": 1, "steps": 1, "batch": 8, "encoders": "shared"},
        "privacy": {"mode": "none"},
        "rounds": {"quorum": 1},
        "evaluation": {"salt": "saltsalt"},
    }
    return Study.model_validate(body | changes)


def results_of(study: Study, identity: str) -> Results:
    def row(site: str, modalities: str, value: float) -> EvaluationRow:
        role = study.sites[site].role
        return EvaluationRow(
            site=site, role=role, task="death", label="", modalities=modalities, model="federated", metric="auroc",
            value=value, ci_low=value - 0.1, ci_high=value + 0.1, n=60, events=20,
        )  # fmt: skip

    def risks(site: str, modalities: str, y: tuple[float, ...]) -> Curve:
        return Curve(
            site=site, task="death", label="", modalities=modalities, kind="risks", x=(0.05, 0.2, 0.4, 0.6, 0.9), y=y,
            counts=(20, 20, 20, 20, 20),
        )  # fmt: skip

    def course(group: str) -> Curve:
        return Curve(
            site="south", task="survival", label="", modalities="all", kind="incidence", group=group,
            x=(0.0, 180.0, 365.0), y=(0.0, 0.25, 0.5), counts=(40, None, 20),
        )  # fmt: skip

    return Results(
        schema=1,
        study=StudyResult(
            name=study.name, hash=identity, system="attention", synthetic=True,
            tasks={task: plan.told for task, plan in study.tasks.items()},
            types={task: plan.type for task, plan in study.tasks.items()},
            headline={}, modalities=tuple(study.modalities), leaky=(), package=version("consilium"),
        ),
        privacy=PrivacyResult(mode="none", delta=1e-5, epsilon_budget=None, epsilon_spent={}),
        sites={},
        rounds=(),
        evaluation=(row("south", "all", 0.81), row("south", "ecg+ehr", 0.74), row("north", "all", 0.86)),
        curves=(
            risks("north", "all", (0.1, 0.2, 0.4, 0.6, 0.9)),
            risks("south", "all", (0.05, 0.25, 0.45, 0.55, 0.8)),
            risks("south", "ecg+ehr", (0.1, 0.3, 0.5, 0.5, 0.7)),
            *(course(group) for group in ("low", "middle", "high")),
        ),
    )  # fmt: skip


@pytest.fixture(scope="session")
def study() -> Study:
    return study_of()


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory, study: Study) -> Made:
    """Made once; `made` is a copy that a test may change."""
    folder = tmp_path_factory.mktemp("drawn")
    synthesize(folder / "sites", sites=["alpha", "beta", HERE], patients=PATIENTS, seed=1, system="m_prtm")
    whole, half, empty = _thin_out(folder / "sites" / HERE)
    site = load_site(folder / "sites" / HERE)
    plain = study.model_copy(update={"sites": {HERE: study.sites["north"]}})
    cohort, _ = load_cohort(site, plain, workers=1)
    model, rows = build_model(study), as_batch(cohort, device=torch.device("cpu"))
    torch.manual_seed(0)  # of dropout, whatever ran before
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-2)
    for _ in range(3):
        batch = take(rows, torch.arange(8))
        optimizer.zero_grad()
        model.losses(model(batch), batch).mean().backward()
        optimizer.step()
    arrays, results = select(model), results_of(study, study.identity)
    card = describe(study=study, results=results, arrays=arrays, round=1)
    private, public = ensure_signing_key(folder / "key")
    write_bundle(
        folder / "bundle", canonical=study.canonical(), arrays=arrays, card=card, results=results, private=private
    )
    return Made(folder=folder / "sites", bundle=folder / "bundle", key=public, whole=whole, half=half, empty=empty)


@pytest.fixture
def made(drawn: Made, tmp_path: Path) -> Made:
    shutil.copytree(drawn.folder, tmp_path / "sites")
    shutil.copytree(drawn.bundle, tmp_path / "bundle")
    return Made(
        folder=tmp_path / "sites", bundle=tmp_path / "bundle", key=drawn.key, whole=drawn.whole, half=drawn.half,
        empty=drawn.empty,
    )  # fmt: skip


def rewrite(table: Path, change) -> None:
    """Change the rows (dicts) of a CSV file; emptied ones are left out."""
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = list(rows[0])
    change(rows)
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=columns)
        writer.writeheader()
        writer.writerows(row for row in rows if row)


@pytest.fixture
def change_rows(made: Made) -> Callable[[Callable[[list[dict[str, str]]], object]], None]:
    """Change the hospital's samples table."""
    return lambda change: rewrite(made.folder / HERE / "samples.csv", change)


def _thin_out(site: Path) -> tuple[str, str, str]:
    """One patient keeps all, of one the cine is broken and the note is gone, of one nothing is left."""
    chosen: list[str] = []

    def change(rows: list[dict[str, str]]) -> None:
        single = [row for row in rows if sum(r["patient_id"] == row["patient_id"] for r in rows) == 1]
        whole, half = [row for row in single if row["cine_path"] and row["ecg_path"] and row["text_path"]][:2]
        empty = next(row for row in single if row["patient_id"] not in (whole["patient_id"], half["patient_id"]))
        half |= {"cine_path": "cine/nowhere", "text_path": "", "mask_path": ""}
        for column in ("cine_path", "mask_path", "ecg_path", "text_path", "age", "sex", "lvef", "nt_probnp"):
            empty[column] = ""
        chosen.extend(row["patient_id"] for row in (whole, half, empty))

    rewrite(site / "samples.csv", change)
    whole, half, empty = chosen
    rewrite(site / "prescriptions.csv", lambda rows: [r.clear() for r in rows if r["subject_id"] in (half, empty)])
    return whole, half, empty
