"""Sunnybrook cardiac data: short-axis cine CMR with contours by an expert, one site folder.

Source: Radau et al., Evaluation framework for algorithms segmenting short axis cardiac MRI, MIDAS J 2009,
hdl 10380/3070 (CC0). Reads an unmodified download; images and contours are copied byte for byte.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from fl_shared.commands import track
from fl_shared.site import Site
from fl_shared.study import EvaluationPlan, Study
from fl_sites import output
from fl_sites.importers.imported import PUBLIC, Imported, summary
from fl_sites.importers.sunnybrook_source import ARCHIVE, CONTOURS, LINK, PATHOLOGIES, PATIENTS, Source, opened
from fl_sites.study_file import plan_sites, write_model

TITLE = "Sunnybrook: short-axis cine CMR with contours (Radau et al., MIDAS J 2009, CC0)"
DOWNLOAD = "https://www.cardiacatlas.org/sunnybrook-cardiac-data/"
NEEDS = (f"{ARCHIVE} (or dicoms/, unpacked)", f"{CONTOURS}/", LINK, PATIENTS)
EVALUATION = EvaluationPlan(holdout=0.2, salt="sunnybrook-held-out", bootstrap=1000, min_patients=10)
SITE = "sunnybrook"
DRAWN = {"1": "cavity", "2": "myocardium"}
"""Number that a reader of the contours gives a structure of the left ventricle -> label."""
_INDEX_TIME = "2009-01-01"


def import_sunnybrook(source: Path, out: Path) -> Imported:
    """Turn a download into ``out/sunnybrook`` and ``out/study.toml``.

    Args:
        source: folder with ``dicoms.tar.xz`` (or the unpacked ``dicoms``), ``contours``, ``link.csv`` and
            ``scd_patientdata.csv``; every patient that ``link.csv`` names must be there.
        out: folder to write.

    Raises:
        ConsiliumError: (exit code 12) the download is wrong or incomplete: everything at once; (exit code 11) ``out``
            holds something that this tool did not write.
    """
    with opened(source) as found:
        output.claim(out, folders=[SITE])
        _copy(found, out / SITE)
    samples = _samples(found.patients)
    samples.to_csv(out / SITE / "samples.csv", index=False, encoding="utf-8")
    write_model(out / SITE / "site.toml", _site(), header=_SITE_HEADER)
    write_model(out / "study.toml", _study(samples), header=_STUDY_HEADER)
    output.seal(out)
    return summary({SITE: samples}, study=out / "study.toml")


def _copy(found: Source, folder: Path) -> None:
    """``cine/<patient>/<n>.dcm`` and ``contours/<patient>/i-contours/*.txt``."""
    for patient in track(list(found.images), SITE):
        images = [(path, Path("cine") / patient / path.name) for path in found.images[patient]]
        contours = [
            (path, Path("contours") / patient / path.parent.name / path.name) for path in found.contours[patient]
        ]
        for path, name in (*images, *contours):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / name)


def _samples(patients: pd.DataFrame) -> pd.DataFrame:
    """One row a patient."""
    return pd.DataFrame(
        {
            "patient_id": patients.index,
            "sample_id": patients.index,
            "index_time": _INDEX_TIME,
            "age": patients["Age"],
            "sex": patients["Gender"],
            "cine_path": "cine/" + patients.index,
            "mask_path": "contours/" + patients.index,
            "pathology": patients["Pathology"],
            "heart_failure": patients["Pathology"].str.startswith("Heart failure").astype(int),
        }
    )


def _site() -> Site:
    return Site.model_validate(
        {
            "schema": 1,
            "name": SITE,
            "title": "Sunnybrook Health Sciences Centre, Toronto",
            "samples": "samples.csv",
            "data_root": ".",
            "timezone": "America/Toronto",
            "columns": {
                "age": {"concept": "age", "unit": "a"},
                "sex": {"concept": "sex", "codes": {"Male": 0, "Female": 1}},
            },
            "modalities": {
                "cine": {"kind": "cine", "column": "cine_path", "mask_column": "mask_path"},
                "ehr": {"kind": "table"},
            },
            "tasks": {
                "heart_failure": {"type": "binary", "columns": {"value": "heart_failure"}},
                "pathology": {"type": "multiclass", "columns": {"value": "pathology"}, "classes": PATHOLOGIES},
                "left_ventricle": {"type": "segmentation", "classes": DRAWN},
            },
            **PUBLIC,
        }
    )


def _study(samples: pd.DataFrame) -> Study:
    plans = plan_sites({SITE: samples["patient_id"]}, external=None, plan=EVALUATION)
    return Study.model_validate(
        {
            "schema": 1,
            "name": "sunnybrook",
            "seed": 0,
            "sites": {name: plan.model_dump(exclude_unset=True) for name, plan in plans.items()},
            "tasks": {
                "heart_failure": {"type": "binary"},
                "left_ventricle": {"type": "segmentation", "modality": "cine", "labels": tuple(DRAWN.values())},
            },
            "modalities": {
                "cine": {"kind": "cine", "frames": 16, "slices": 8, "size": 64, "field_of_view": 240.0},
                "ehr": {"kind": "table", "fields": ["age", "sex"]},
            },
            "model": {"system": "attention"},
            "training": {"rounds": 10, "steps": 5, "batch": 8, "learning_rate": 1e-3, "encoders": "shared"},
            "privacy": {"mode": "none"},
            "rounds": {"quorum": 1},
            "evaluation": EVALUATION.model_dump(exclude_unset=True),
        }
    )


_SITE_HEADER = """Sunnybrook cardiac data (CC0): Radau et al., MIDAS J 2009, hdl 10380/3070. Public data, hence
allow_without_privacy. The image headers hold no date: index_time is made up, the year of the release.
Contours are the release's: IM-0001-0048-icontour-manual.txt belongs to image 48.dcm, in pixels of that image; 'i' is
the endocardium and 'o' the epicardium of the left ventricle."""
_STUDY_HEADER = """A study at the one site of the Sunnybrook cardiac data. A start: copy it, then change what you like.
Task 'heart_failure': heart failure with or without infarct, against hypertrophy and normal hearts. Task
'left_ventricle': its contours, of images with both walls (the outer one is drawn at end diastole only). The site also
maps 'pathology' (those four classes). Below evaluation.min_patients no metric is told.
'patients' counts the training patients (not held out under [evaluation] salt); recount when you change the salt."""
