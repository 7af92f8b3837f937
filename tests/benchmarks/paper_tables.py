"""The five papers' own tables on SYNTHETIC sites, by `fl-server paper` and `fl-server compare-systems`.

Each study is the one that `fl-sites synthesize --system PAPER` writes, with what the paper's tables need besides:
groups of fields (M-PRTM), a second representation of the record (cross-modal alignment), a table with ages (MedFuse), a
series for TPC and groups of patients by disease (LeMoF). Kept: each variant at the site that took no part, federated,
without privacy. The patients are invented: what the tables look like carries over to real ones, no
number does.

    python tests/benchmarks/paper_tables.py medfuse --at DIR --workers 2

Stopped, it goes on where it was. ``--keep`` stores the figures of what has finished, and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import targets
from comparison_grids import EVALUATION, write
from comparisons import command
from targets import Figure

from fl_server.comparison.result import FILE, ComparisonResult
from fl_shared.metrics.table import metrics_of
from fl_sites.synthetic.measures import LABORATORY, VITAL_SIGNS
from fl_sites.synthetic.patients import MEASURED

Body = dict[str, Any]
SITES = ("--sites", "alpha,beta,gamma,delta", "--patients", "300")
SERIES = {"kind": "events", "fields": [*VITAL_SIGNS, *LABORATORY], "hours": 672.0, "bins": 28}
TABLE = {"kind": "table", "fields": ["age", "sex", *MEASURED]}
LEMOF = {  # of 192 models these 24
    "fusion": ("lemof", "lemof_first", "lemof_second", "mmtm"),
    "ecg_encoder": ("ecg_cnn", "wavenet"),
    "ehr_encoder": ("ehr_table_mlp", "ehr_ft_transformer", "series_tpc"),
}
DISEASES = ["heart_failure", "chronic_kidney_disease", "cardiac_dysrhythmias", "coronary_atherosclerosis"]


def _m_prtm(body: Body) -> None:
    body["tasks"] = {name: body["tasks"][name] for name in ("death", "macce", "readmission", "fibrosis")}
    body["modalities"]["cine"] |= {"frames": 4, "size": 32}  # small, and fewer steps: for time
    body["modalities"]["text"]["max_tokens"] = 128
    body["training"] |= {"steps": 5, "batch": 16}
    laboratory = ["creatinine", "nt_probnp", "sodium", "haemoglobin"]
    body["evaluation"]["feature_groups"] = {
        "person": ["age", "sex"], "circulation": ["sbp", "heart_rate"], "ejection": ["lvef"], "laboratory": laboratory,
    }  # fmt: skip


def _tte_alignment(body: Body) -> None:
    body["modalities"]["series"] = SERIES | {"encoder": "events_summary"}


def _medm2t(body: Body) -> None:
    del body["modalities"]["text"]  # for time: 7 sets of modalities instead of 15


def _medfuse(body: Body) -> None:
    body["modalities"]["ehr"] = TABLE


def _lemof(body: Body) -> None:
    body["modalities"]["series"] = SERIES
    body["evaluation"]["subgroups"] = DISEASES
    body["training"]["rounds"] = 12  # in five phases


PAPERS: Mapping[str, Callable[[Body], None]] = {
    "m_prtm": _m_prtm,
    "medm2t": _medm2t,
    "tte_alignment": _tte_alignment,
    "medfuse": _medfuse,
    "lemof": _lemof,
}


def prepare(paper: str, at: Path) -> Path:
    """The comparison's file, with its sites and study beside it."""
    folder = at / paper
    if not folder.exists():
        command("fl_sites.cli", "synthesize", *SITES, "--system", paper, "--out", str(folder))
    body = tomllib.loads((folder / "study.toml").read_text(encoding="utf-8"))
    body["evaluation"] = {key: body["evaluation"][key] for key in EVALUATION} | {"bootstrap": 300}
    PAPERS[paper](body)
    study = write(folder / "table_study.toml", body)
    file = folder / f"{paper}.toml"
    command("fl_server.cli", "paper", paper, str(study), "--write", str(file))
    if paper == "lemof":
        grid = tomllib.loads(file.read_text(encoding="utf-8"))
        grid["axes"] |= {axis: {name: grid["axes"][axis][name] for name in kept} for axis, kept in LEMOF.items()}
        write(file, grid)
    return file


def figures(result: ComparisonResult) -> Iterator[Figure]:
    """The headline of every task, at the external site, by variant; beside it what the model makes of its inputs."""
    titles = {variant.name: variant.title for variant in result.variants}
    for task, labels in result.tasks.items():
        label = "macro" if len(labels) > 1 and labels[0] else labels[0]
        metric = metrics_of(result.types[task])[0]
        place = (task, label, metric, "external", "", "", result.headline[task])
        for row in result.numbers:
            at = (row.task, row.label, row.metric, row.role, row.site, row.subgroup, row.modalities)
            if at == place and row.value is not None:
                what = f"{task}, {metric}: {titles[row.variant]}"
                yield Figure(what=what, value=row.value, low=row.low, high=row.high)


def main() -> None:
    """Make, run, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paper", choices=PAPERS)
    parser.add_argument("--at", type=Path, required=True, help="folder of sites and runs")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="only store what has finished")
    options = parser.parse_args()
    file, runs = prepare(options.paper, options.at), options.at / "runs"
    if not options.keep:
        given = ("--sites-dir", str(file.parent), "--runs", str(runs), "--workers", str(options.workers))
        command("fl_server.cli", "compare-systems", str(file), *given)
    name = tomllib.loads(file.read_text(encoding="utf-8"))["name"]
    result = ComparisonResult.model_validate(json.loads((runs / name / FILE).read_text(encoding="utf-8")))
    targets.keep(
        f"paper_{options.paper}",
        title=f"SYNTHETIC patients, 300 a site: {result.title}; federated, external",
        command=f"python tests/benchmarks/paper_tables.py {options.paper} --at DIR",
        figures=list(figures(result)),
    )


if __name__ == "__main__":
    main()
