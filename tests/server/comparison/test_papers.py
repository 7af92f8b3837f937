"""Each paper's comparison file, for a study of every kind of modality: read back, derived, and without faults."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from fl_server.cli import app
from fl_server.comparison.derive import derive
from fl_server.comparison.papers import BODIES, Paper
from fl_server.comparison.plan import ComparisonPlan, load_plan
from fl_shared.errors import ConsiliumError
from fl_shared.study import Study
from fl_shared.written import write_model

BODY: dict[str, Any] = {
    "schema": 1,
    "name": "small",
    "seed": 7,
    "sites": {"a": {"role": "train", "patients": 40}, "b": {"role": "external"}},
    "tasks": {"death": {"type": "binary"}, "phenotypes": {"type": "multilabel", "labels": ["mi", "hf"]}},
    "modalities": {
        "ecg": {"kind": "waveform", "leads": ["I", "II"], "rate": 100, "seconds": 2},
        "ehr": {"kind": "table", "fields": ["age", "sex", "bmi"]},
        "series": {"kind": "events", "fields": ["sbp", "heart_rate"], "hours": 10, "bins": 12},
    },
    "training": {"rounds": 6, "steps": 1, "batch": 4},
    "privacy": {"mode": "none"},
    "rounds": {"quorum": 1},
    "evaluation": {"salt": "saltsalt"},
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    write_model(path, Study.model_validate(BODY), header="")
    return path


@pytest.mark.parametrize("paper", Paper)
def test_the_file_of_a_paper_is_a_comparison_without_faults(paper: Paper, study: Path, tmp_path: Path) -> None:
    file = tmp_path / "grids" / f"{paper}.toml"
    file.parent.mkdir()
    told = CliRunner().invoke(app, ["paper", paper, str(study), "--write", str(file), "--format", "json"])
    assert told.exit_code == 0, told.output
    plan = load_plan(file)
    assert json.loads(told.stdout)["variants"] == list(plan.combined())
    if paper is not Paper.LEMOF:  # 192 models: its axes are checked below
        grid = derive(file)
        assert grid.cells
        assert not any(cell.refused for cell in grid.cells)
    first = plan.first
    for table in plan.tables:
        for variant in table.only.get("variant", ()):
            assert variant in plan.combined(), table.title
        assert {*table.rows, *table.columns} <= {*plan.axes, "variant", "task", "metric", "subgroup", "label", "role"}
    assert first in plan.combined()


def test_lemof_crosses_four_by_five_encoders_with_its_fusions() -> None:
    body = BODY | {"modalities": {name: BODY["modalities"][name] for name in ("ecg", "ehr")}}
    plan = ComparisonPlan.model_validate({"study": "study.toml", **BODIES[Paper.LEMOF](Study.model_validate(body))})
    assert len(plan.axes["ecg_encoder"]) == 4
    assert len(plan.axes["ehr_encoder"]) == 4  # of a table; TPC and LSTM read series
    both = BODIES[Paper.LEMOF](Study.model_validate(BODY))
    assert {"series_tpc", "ehr_tabnet"} <= both["axes"]["ehr_encoder"].keys()


def test_lemof_tells_of_diseases_where_the_study_asks_for_groups() -> None:
    asked = Study.model_validate(BODY | {"evaluation": BODY["evaluation"] | {"subgroups": ["heart_failure"]}})
    plan = ComparisonPlan.model_validate({"study": "study.toml", **BODIES[Paper.LEMOF](asked)})
    table = plan.tables[-1]
    assert table.rows == ("subgroup",)
    assert table.only["ecg_encoder"] == ("wavenet",) and table.only["ehr_encoder"] == ("ehr_ft_transformer",)
    assert {*table.only["fusion"]} <= plan.axes["fusion"].keys()
    assert len(plan.tables) == len(BODIES[Paper.LEMOF](Study.model_validate(BODY))["tables"]) + 1


def test_m_prtm_weighs_each_modality_heavily_once_and_asks_for_every_set() -> None:
    body = BODIES[Paper.M_PRTM](Study.model_validate(BODY))
    shares = {n: v["study"]["model"]["shares"] for n, v in body["variants"].items() if n.startswith("heavy_")}
    assert shares["heavy_ecg"] == {"ecg": 0.5, "ehr": 0.25, "series": 0.25}
    assert all(sum(each.values()) == pytest.approx(1.0) for each in shares.values())
    assert sum(name.startswith("only_") for name in body["variants"]) == 2**3 - 2


def test_a_study_without_what_the_tables_need_is_told_so() -> None:
    lacking = BODY | {"modalities": {"ehr": BODY["modalities"]["ehr"]}}
    for paper in (Paper.LEMOF, Paper.TTE_ALIGNMENT):
        with pytest.raises(ConsiliumError, match="small"):
            BODIES[paper](Study.model_validate(lacking))
