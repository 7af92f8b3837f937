"""Leave one site out with the product's own commands: four hospitals of UCI heart disease, four ICU types of PhysioNet.

``fl-sites import``, then ``fl-server simulate --design loso`` with the importer's own study, as it was written before
any of these figures were seen; only the declared patients of the site that the importer leaves outside are added. One
seed. UCI twice: all rows, and the rows and columns of the published comparison (FLamby's: three columns dropped, then
every row with a gap). Beside ours the figures of shared/facts: FedAvg of a linear model or of an MLP.

    python tests/benchmarks/leave_one_out.py uci --from ../shared/data/uci-heart-disease
    python tests/benchmarks/leave_one_out.py physionet --from ../shared/data/physionet-2012
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import targets
from targets import Figure
from uci_flamby import read_centres

from fl_shared.study import Study, load_study
from fl_shared.written import write_model
from fl_sites.study_file import plan_sites

DROPPED = ("st_slope", "fluoroscopy_vessels", "thallium_scan")  # FLamby's columns 10 to 12
LINEAR = {"cleveland": 0.861, "hungary": 0.868, "va": 0.722, "switzerland": 0.911}
"""FedAvg of a logistic regression on FLamby's rows, each hospital left out in turn: AUROC (facts)."""
ONE = "that .911 stands on the one Swiss row without disease: on those rows the product tells no AUROC"
MLP = {"icu_coronary": 0.864, "icu_cardiac_surgery": 0.842, "icu_medical": 0.777, "icu_surgical": 0.824}
"""FedAvg of an MLP on hand-made features (facts)."""
TREES = {"icu_coronary": 0.869, "icu_cardiac_surgery": 0.879, "icu_medical": 0.795, "icu_surgical": 0.822}
"""Gradient boosting on hand-made features, the other three types together (facts)."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One leave-one-site-out table: the task told, and what its AUROC at each site is held against."""

    name: str
    task: str
    beside: Mapping[str, float]
    notes: Mapping[str, str]


def command(*words: str) -> subprocess.CompletedProcess[str]:
    """A command of the product in this environment, one thread."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return done


def imported(name: str, source: Path, sites: Path) -> bool:
    """Import a data set unless that was done."""
    if (sites / "study.toml").exists():
        return False
    command("fl_sites.cli", "import", name, "--from", str(source), "--out", str(sites))
    return True


def declared(sites: Path, name: str) -> Path:
    """The importer's study under a name, with the training patients of every site declared."""
    study = load_study(sites / "study.toml")
    ids = {site: pd.read_csv(sites / site / "samples.csv", dtype=str)["patient_id"] for site in study.sites}
    counted = plan_sites(ids, external=None, plan=study.evaluation)
    body = study.model_dump(mode="json", by_alias=True, exclude_unset=True)
    body["name"] = name
    for site, plan in counted.items():
        body["sites"][site]["patients"] = plan.patients
    path = sites / f"{name}.toml"
    write_model(path, Study.model_validate(body), header="The importer's study, all sites' patients declared.")
    return path


def complete_rows(sites: Path, source: Path) -> None:
    """Cut the imported tables to FLamby's rows and columns: no gap but where a cholesterol or pressure of 0 stood."""
    study = load_study(sites / "study.toml")
    body = study.model_dump(mode="json", by_alias=True, exclude_unset=True)
    body["modalities"]["ehr"]["fields"] = [f for f in body["modalities"]["ehr"]["fields"] if f not in DROPPED]
    write_model(sites / "study.toml", Study.model_validate(body), header="FLamby's columns.")
    for site, centre in read_centres(source).items():
        path = sites / site / "samples.csv"
        table = pd.read_csv(path, dtype=str)
        kept = {f"{site}_{number:03d}" for number in centre.numbers}
        table[table["patient_id"].isin(kept)].to_csv(path, index=False)


def simulated(study: Path, sites: Path, runs: Path) -> dict[str, Any]:
    """``design.json`` of leaving every site out."""
    began = time.monotonic()
    words = ("simulate", str(study), "--design", "loso", "--sites-dir", str(sites), "--runs", str(runs))
    done = command("fl_server.cli", *words, "--format", "json")
    print(f"{study.stem}: {time.monotonic() - began:.0f} s", flush=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def figures(result: Mapping[str, Any], table: Table) -> Iterator[Figure]:
    """AUROC of every left-out site beside what it got inside, and the summary over sites."""

    def is_headline(row: Mapping[str, Any]) -> bool:
        return (row["task"], row["metric"], row["model"]) == (table.task, "auroc", "federated")

    inside = {row["site"]: row for row in result["spreads"] if is_headline(row) and row["role"] == "train"}
    for row in filter(is_headline, result["measures"]):
        site = row["site"]
        if site != row["arm"] or row["value"] is None:
            continue
        spread = inside.get(site)
        within = f"inside {spread['mean']:.3f} over {spread['models']} models; " if spread else "inside withheld; "
        yield Figure(
            what=f"{table.name}, {site} left out: AUROC",
            value=row["value"], low=row["ci_low"], high=row["ci_high"], target=table.beside[site],
            note=f"n = {row['n']}; {within}{table.notes[site]}",
        )  # fmt: skip
    for row in filter(is_headline, result["summaries"]):
        ends = [row["prediction_low"], row["prediction_high"]]
        far = f"a new site {ends[0]:.3f} to {ends[1]:.3f}; " if None not in ends else ""
        yield Figure(
            what=f"{table.name}, all left-out sites: AUROC, random effects", value=row["value"], low=row["ci_low"],
            high=row["ci_high"], note=f"{far}worst site {row['worst']}",
        )  # fmt: skip


def uci(source: Path, folder: Path) -> list[Figure]:
    """All rows, then FLamby's."""
    found = []
    for name, cut, said in (("uci_all", False, "all rows"), ("uci_complete", True, "rows without gaps")):
        sites = folder / name
        if imported("uci-heart", source, sites) and cut:
            complete_rows(sites, source)
        result = simulated(declared(sites, name), sites, folder / "runs")
        other = "" if cut else "; on the rows without gaps, of 10 columns"
        notes = {site: f"beside: FedAvg of a logistic regression{other}" for site in LINEAR}
        notes["switzerland"] += f"; {ONE}"
        table = Table(name=f"UCI heart disease, {said}", task="disease", beside=LINEAR, notes=notes)
        found += figures(result, table)
    return found


def physionet(source: Path, folder: Path) -> list[Figure]:
    """Death in hospital."""
    sites = folder / "physionet"
    imported("physionet-2012", source, sites)
    result = simulated(declared(sites, "physionet_2012"), sites, folder / "runs")
    held = "a fifth of each training type is held out, unlike in the figures beside and in physionet_2012.py"
    beside = "beside: FedAvg of an MLP; gradient boosting, pooled,"
    notes = {site: f"{beside} {value}; {held}" for site, value in TREES.items()}
    return [*figures(result, Table(name="PhysioNet 2012", task="in_hospital_death", beside=MLP, notes=notes))]


TITLES = {
    "uci": "UCI heart disease, leave one of four hospitals out, by fl-server simulate --design loso",
    "physionet": "PhysioNet 2012, leave one of four types of ICU out, by fl-server simulate --design loso",
}
SOURCES = {"uci": "uci-heart-disease", "physionet": "physionet-2012"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=sorted(TITLES))
    parser.add_argument("--from", dest="source", type=Path, required=True, help="the unmodified download")
    parser.add_argument("--at", type=Path, help="folder that keeps sites and runs; what has finished is not run again")
    parser.add_argument("--results", type=Path, default=targets.HERE / "results")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.at or Path(scratch)).resolve()
        found = (uci if args.data == "uci" else physionet)(args.source.resolve(), folder)
    for figure in found:
        print(f"{figure.what:70} {figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})  {figure.note}")
    targets.keep(
        f"leave_one_out_{args.data}",
        title=TITLES[args.data],
        command=f"python tests/benchmarks/leave_one_out.py {args.data} --from ../shared/data/{SOURCES[args.data]}",
        figures=found,
        results=args.results,
    )


if __name__ == "__main__":
    main()
