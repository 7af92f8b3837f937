"""PTB-XL: 12-lead ECG with reports, one site folder for each value of its ``site`` column.

Source: Wagner et al., PTB-XL, a large publicly available electrocardiography dataset, Sci Data 2020;7:154,
doi 10.13026/kfzx-aw45 (CC BY 4.0). Reads an unmodified download; the ECG files are copied byte for byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from fl_shared.commands import track
from fl_shared.site import Site
from fl_shared.study import EvaluationPlan, Study
from fl_sites import output
from fl_sites.importers.imported import PUBLIC, Imported, summary
from fl_sites.importers.ptb_xl_source import SUPERCLASSES, read_source
from fl_sites.study_file import LEADS, plan_sites, write_model

TITLE = "PTB-XL: 12-lead ECG with reports (Wagner et al., Sci Data 2020;7:154, CC BY 4.0)"
DOWNLOAD = "https://physionet.org/content/ptb-xl/"
NEEDS = ("ptbxl_database.csv", "scp_statements.csv", "records100/ (WFDB, 100 Hz)")
EVALUATION = EvaluationPlan(holdout=0.2, salt="ptb-xl-held-out", bootstrap=1000, min_patients=10)
_EXTERNAL = "site_3"  # where it is part of the download; the last site otherwise
_OLDEST = 90  # years; the release codes every age above 89 as 300
_SAMPLE_COLUMNS = (
    *("patient_id", "sample_id", "index_time", "age", "sex", "height", "weight", "ecg_path", "text_path"),
    *(f"superclass_{name}" for name in SUPERCLASSES),
    "mi",
)


def import_ptb_xl(source: Path, out: Path) -> Imported:
    """Turn a download into ``out/site_<label>`` folders and ``out/study.toml``.

    Args:
        source: folder of the unmodified release; every record that ``ptbxl_database.csv`` names must be there.
        out: folder to write.

    Raises:
        ConsiliumError: (exit code 12) the download is wrong or incomplete: everything that is missing, at once;
            (exit code 11) ``out`` holds something that this tool did not write.
    """
    records, left_out = read_source(source)
    sites = {f"site_{label}": table for label, table in records.groupby("site", sort=True)}
    output.claim(out, folders=list(sites))
    for name, table in sites.items():
        _write_site(source, out / name, table=table)
    patients = {name: sorted(set(table["patient_id"])) for name, table in sites.items()}
    write_model(out / "study.toml", _study(patients), header=_STUDY_HEADER)
    output.seal(out)
    return summary(sites, study=out / "study.toml", left_out=left_out)


def _write_site(source: Path, folder: Path, *, table: pd.DataFrame) -> None:
    """One site folder: signals, reports, samples table, ``site.toml``."""
    for kind in ("ecg", "text"):
        (folder / kind).mkdir()
    for record, report, number in track(
        list(zip(table["filename_lr"], table["report"], table["ecg_id"], strict=True)), folder.name
    ):
        for suffix in (".hea", ".dat"):
            shutil.copyfile(source / f"{record}{suffix}", folder / "ecg" / f"{Path(record).name}{suffix}")
        if pd.notna(report):
            (folder / "text" / f"{number:05d}.txt").write_text(report + "\n", encoding="utf-8")
    samples = table.assign(
        sample_id=table["ecg_id"].map("{:05d}".format),
        index_time=table["recording_date"],
        age=table["age"].mask(table["age"] == 300, _OLDEST),
        ecg_path="ecg/" + table["filename_lr"].str.rsplit("/", n=1).str[-1] + ".hea",
        text_path=("text/" + table["ecg_id"].map("{:05d}".format) + ".txt").where(table["report"].notna()),
        mi=table["superclass_MI"],
    )
    samples.to_csv(folder / "samples.csv", columns=list(_SAMPLE_COLUMNS), index=False, encoding="utf-8")
    write_model(folder / "site.toml", _site(folder.name), header=_SITE_HEADER)


def _site(name: str) -> Site:
    return Site.model_validate(
        {
            "schema": 1,
            "name": name,
            "title": f"PTB-XL {name.replace('_', ' ')}",
            "samples": "samples.csv",
            "data_root": ".",
            "encoding": "utf-8",
            "timezone": "Europe/Berlin",
            "columns": {
                "age": {"concept": "age", "unit": "a"},
                "sex": {"concept": "sex", "codes": {"0": 0, "1": 1}},
                "height": {"concept": "height", "unit": "cm"},
                "weight": {"concept": "weight", "unit": "kg"},
            },
            "modalities": {
                "ecg": {
                    "kind": "waveform",
                    "column": "ecg_path",
                    "aliases": {"AVR": "aVR", "AVL": "aVL", "AVF": "aVF"},
                },
                "ehr": {"kind": "table"},
                "text": {"kind": "text", "column": "text_path"},
            },
            "tasks": {
                "superclass": {"columns": {label: f"superclass_{label}" for label in SUPERCLASSES}},
                "mi": {"columns": {"value": "mi"}},
            },
            **PUBLIC,
        }
    )


def _study(patients: Mapping[str, list[str]]) -> Study:
    """The study over every site that is large enough to be judged."""
    large = {name: ids for name, ids in patients.items() if len(ids) >= EVALUATION.min_patients} or patients
    last = list(large)[-1] if len(large) > 1 else None
    sites = plan_sites(large, external=_EXTERNAL if _EXTERNAL in large and last else last, plan=EVALUATION)
    training = sum(plan.role == "train" for plan in sites.values())
    return Study.model_validate(
        {
            "schema": 1,
            "name": "ptb_xl",
            "seed": 0,
            "sites": {name: plan.model_dump(exclude_unset=True) for name, plan in sites.items()},
            "tasks": {
                "superclass": {"type": "multilabel", "labels": SUPERCLASSES, "headline": SUPERCLASSES[:-1]},
                "mi": {"type": "binary"},
            },
            "modalities": {
                "ecg": {"kind": "waveform", "leads": LEADS, "rate": 100.0, "seconds": 10.0},
                "ehr": {"kind": "table", "fields": ["age", "sex", "height", "weight"]},
                # hidden from most training rows: it states the diagnosis, so nothing else would be learned beside it
                "text": {"kind": "text", "leaky": True, "dropout": 0.9},
            },
            # fixed on held-out patients of sites 0-2 (tests/benchmarks/ptbxl_settings.py)
            "model": {"system": "attention", "modality_dropout": 0.3},
            "training": {"rounds": 10, "steps": 20, "batch": 32, "learning_rate": 1e-3, "encoders": "shared"},
            "privacy": {"mode": "none"},
            "rounds": {"quorum": training // 2 + 1},
            "evaluation": EVALUATION.model_dump(exclude_unset=True),
        }
    )


_SITE_HEADER = """One site of PTB-XL (CC BY 4.0): Wagner et al., Sci Data 2020;7:154, doi 10.13026/kfzx-aw45.
Public data, hence allow_without_privacy. Ages above 89 (300 in the release) are written as 90."""
_STUDY_HEADER = """A study over the imported PTB-XL sites. A start: copy it, then change what you like.
HYP stays out of the headline mean: too few events at the external site. The report states the diagnosis: the text
is marked leaky and stays out of headline results.
'patients' counts the training patients (not held out under [evaluation] salt); recount when you change the salt."""
