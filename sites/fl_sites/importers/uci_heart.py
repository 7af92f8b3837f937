"""UCI heart disease: four hospitals' tables, one site folder each.

Source: Janosi, Steinbrunn, Pfisterer, Detrano, Heart Disease, UCI Machine Learning Repository 1988,
doi 10.24432/C52P4X (CC BY 4.0). Reads the processed files of an unmodified download. The label is the angiogram's:
``num`` above 0 means a narrowing of more than half of a vessel's diameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fl_shared.errors import Fault
from fl_shared.site import Site
from fl_shared.study import EvaluationPlan, Study
from fl_sites import output
from fl_sites.importers.imported import PUBLIC, Imported, incomplete, listed, missing, summary
from fl_sites.study_file import plan_sites, write_model

TITLE = "UCI heart disease: four hospitals, 13 values at angiography (Janosi et al. 1988, CC BY 4.0)"
DOWNLOAD = "https://archive.ics.uci.edu/dataset/45/heart+disease"
EVALUATION = EvaluationPlan(holdout=0.2, salt="uci-heart-held-out", bootstrap=1000, min_patients=10)
EXTERNAL = "va"  # why: _STUDY_HEADER
_FILES = {
    "cleveland": ("processed.cleveland.data", 303, "Cleveland Clinic Foundation"),
    "hungary": ("processed.hungarian.data", 294, "Hungarian Institute of Cardiology, Budapest"),
    "switzerland": ("processed.switzerland.data", 123, "University Hospitals Zurich and Basel"),
    "va": ("processed.va.data", 200, "VA Medical Center, Long Beach"),
}
NEEDS = tuple(name for name, _, _ in _FILES.values())
_COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "age": {"concept": "age", "unit": "a"},
    "sex": {"concept": "sex", "codes": {"1": 0, "0": 1}},  # 1 is male in the source
    "cp": {"concept": "chest_pain"},
    "trestbps": {"concept": "sbp", "unit": "mm[Hg]"},
    "chol": {"concept": "cholesterol", "unit": "mg/dL"},
    "fbs": {"concept": "fasting_glucose_high"},
    "restecg": {"concept": "resting_ecg"},
    "thalach": {"concept": "max_heart_rate", "unit": "/min"},
    "exang": {"concept": "exercise_angina"},
    "oldpeak": {"concept": "st_depression", "unit": "mm"},
    "slope": {"concept": "st_slope"},
    "ca": {"concept": "fluoroscopy_vessels"},
    "thal": {"concept": "thallium_scan", "codes": {"3": 0, "6": 1, "7": 2}},
}
_LABEL = "num"
_ZERO_IS_MISSING = ("trestbps", "chol")  # nobody has a pressure or a cholesterol of 0: not measured
_MISSING = re.compile(r"\?|-9(\.0*)?")
_NUMBER = re.compile(r"-?\d*\.?\d+|\d+\.")
_INDEX_TIME = "1988-07-01"


def import_uci_heart(source: Path, out: Path) -> Imported:
    """Turn a download into four site folders and ``out/study.toml``.

    Args:
        source: folder with the four processed files, unmodified.
        out: folder to write.

    Raises:
        ConsiliumError: (exit code 12) the download is wrong or incomplete: everything at once; (exit code 11) ``out``
            holds something that this tool did not write.
    """
    tables = _read(source)
    sites = {name: _samples(name, table) for name, table in tables.items()}
    output.claim(out, folders=list(sites))
    for name, samples in sites.items():
        samples.to_csv(out / name / "samples.csv", index=False, encoding="utf-8")
        write_model(out / name / "site.toml", _site(name), header=_SITE_HEADER)
    write_model(out / "study.toml", _study(sites), header=_STUDY_HEADER)
    output.seal(out)
    return summary(sites, study=out / "study.toml")


def _read(source: Path) -> dict[str, list[list[str]]]:
    """Site -> the cells of every row, checked."""
    mend = "Point --from at the unpacked folder of the release, or download this file again."
    if faults := missing(source, NEEDS, mend=mend):
        raise incomplete(source, "UCI heart disease", faults)
    lines = {name: (source / file).read_bytes().decode("latin-1").split("\n") for name, (file, _, _) in _FILES.items()}
    tables = {name: [line.strip().split(",") for line in found if line.strip()] for name, found in lines.items()}
    if faults := [fault for name, rows in tables.items() for fault in _faults(source, name, rows)]:
        raise incomplete(source, "UCI heart disease", faults)
    return tables


def _faults(source: Path, name: str, rows: Sequence[Sequence[str]]) -> Iterator[Fault]:
    file, expected, _ = _FILES[name]
    path, mend = str(source / file), "Use the unmodified file of the release."
    if len(rows) != expected:
        problem = f"the release has {expected}"
        yield Fault(file=path, key="rows", value=str(len(rows)), problem=problem, mend=mend)
    width = len(_COLUMNS) + 1
    if ragged := [n for n, cells in enumerate(rows, start=1) if len(cells) != width]:
        yield Fault(file=path, key=f"rows {listed(ragged)}", problem=f"not {width} values", mend=mend)
        return
    for n, cells in enumerate(rows, start=1):
        for column, cell in zip((*_COLUMNS, _LABEL), cells, strict=True):
            if not (_MISSING.fullmatch(cell) or _NUMBER.fullmatch(cell)):
                yield Fault(file=path, row=n, key=column, value=cell[:40], problem="not a number", mend=mend)
        if cells[-1] not in set("01234"):
            yield Fault(file=path, row=n, key=_LABEL, value=cells[-1][:40], problem="not 0 to 4", mend=mend)


def _samples(name: str, rows: Sequence[Sequence[str]]) -> pd.DataFrame:
    """One row a patient; values as written, empty where missing."""
    table = pd.DataFrame(rows, columns=[*_COLUMNS, _LABEL])
    for column in _COLUMNS:
        unknown = table[column].str.fullmatch(_MISSING)
        if column in _ZERO_IS_MISSING:
            unknown |= pd.to_numeric(table[column], errors="coerce") == 0
        table[column] = table[column].mask(unknown, "")
    ids = [f"{name}_{number:03d}" for number in range(1, len(table) + 1)]
    heads = pd.DataFrame({"patient_id": ids, "sample_id": ids, "index_time": _INDEX_TIME})
    return heads.join(table).assign(disease=(table[_LABEL] != "0").astype(int))


def _site(name: str) -> Site:
    return Site.model_validate(
        {
            "schema": 1,
            "name": name,
            "title": f"UCI heart disease, {_FILES[name][2]}",
            "samples": "samples.csv",
            "columns": _COLUMNS,
            "modalities": {"ehr": {"kind": "table"}},
            "tasks": {"disease": {"columns": {"value": "disease"}}},
            **PUBLIC,
        }
    )


def _study(sites: Mapping[str, pd.DataFrame]) -> Study:
    plans = plan_sites({n: t["patient_id"] for n, t in sites.items()}, external=EXTERNAL, plan=EVALUATION)
    return Study.model_validate(
        {
            "schema": 1,
            "name": "uci_heart",
            "seed": 0,
            "sites": {name: plan.model_dump(exclude_unset=True) for name, plan in plans.items()},
            "tasks": {"disease": {"type": "binary"}},
            "modalities": {"ehr": {"kind": "table", "fields": [column["concept"] for column in _COLUMNS.values()]}},
            "model": {"system": "attention", "width": 32},
            "training": {"rounds": 10, "steps": 20, "batch": 32, "learning_rate": 1e-3, "encoders": "shared"},
            "privacy": {"mode": "none"},
            "rounds": {"quorum": 2},
            "evaluation": EVALUATION.model_dump(exclude_unset=True),
        }
    )


_SITE_HEADER = """One hospital of the UCI heart disease data (CC BY 4.0): Janosi, Steinbrunn, Pfisterer, Detrano 1988,
doi 10.24432/C52P4X. Public data, hence allow_without_privacy. '?', -9 and a cholesterol or blood pressure of 0 are
written as empty cells: not measured (all of Switzerland's cholesterol, a quarter of the VA's).
The source has neither ids nor dates: a row is a patient, and index_time is the date of the release.
num is the label as published (0 to 4; Hungary: 0 or 1); disease is 1 where it is above 0."""
_STUDY_HEADER = """A study over the four hospitals of the UCI heart disease data. A start: copy it, then change what you
like. The VA judges: it has patients of both classes (51 without disease, Switzerland only 8) and differs most from
the others. Switzerland trains with almost no patient without disease.
'patients' counts the training patients (not held out under [evaluation] salt); recount when you change the salt."""
