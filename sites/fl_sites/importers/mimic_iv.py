"""MIMIC-IV: ICU stays with static values, laboratory series, prescriptions, and ECG and notes where they are present.

Source: Johnson et al., MIMIC-IV, a freely accessible electronic health record dataset, Sci Data 2023;10:1,
doi 10.1038/s41597-022-01899-x; versions 2.x and 3.x and the open demo. MIMIC-IV-ECG: doi 10.13026/4nqg-sb35.
MIMIC-IV-Note: doi 10.13026/1n74-ne17. Reads unmodified downloads.

MIMIC-IV is one hospital. Its sites here are types of intensive care unit, as those of physionet-2012 are: they differ
in patients and practice, which is what a federation has to live with, but share laboratories, record system and
coders. One site would leave nothing to federate; the header of every file that is written says what the sites are.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from fl_shared.study import Study
from fl_sites import output
from fl_sites.importers import mimic_iv_plan as plan
from fl_sites.importers.ccs import read_ccs
from fl_sites.importers.imported import Imported, summary
from fl_sites.importers.mimic_iv_ecg import choose_ecgs, copy_ecgs
from fl_sites.importers.mimic_iv_events import BACK, write_events
from fl_sites.importers.mimic_iv_outcomes import add_outcomes
from fl_sites.importers.mimic_iv_source import Source, find_source
from fl_sites.importers.mimic_iv_stays import body_measures, choose_stays
from fl_sites.importers.mimic_iv_text import write_notes, write_prescriptions
from fl_sites.study_file import write_model

TITLE = "MIMIC-IV: intensive care stays, with ECG and notes where present (Johnson et al., Sci Data 2023;10:1)"
DOWNLOAD = "https://physionet.org/content/mimiciv/"
NEEDS = (
    "hosp/ (patients, admissions, diagnoses_icd, omr, labevents, prescriptions)",
    "icu/ (icustays, outputevents; chartevents where present)",
    "MIMIC-IV-ECG, MIMIC-IV-Note inside or beside it, if you have them",
    "--ccs: AHRQ's single-level CCS files, for the phenotypes",
)


def import_mimic_iv(source: Path, out: Path, *, ccs: Path | None = None) -> Imported:
    """Turn a download into ``out/<type of unit>`` folders and ``out/study.toml``.

    Args:
        source: folder that holds ``hosp/`` and ``icu/``. MIMIC-IV-ECG (``record_list.csv``) and MIMIC-IV-Note
            (``discharge.csv.gz``, ``radiology.csv.gz``) may lie inside it or beside it.
        out: folder to write.
        ccs: AHRQ's single-level CCS file for diagnoses, or the folder of the two (ICD-9-CM, ICD-10-CM); without it
            there is no task ``phenotypes``.

    Raises:
        ConsiliumError: (exit code 12) the download or the CCS table is wrong or incomplete: everything that is
            missing, at once (that a table was cut short shows when it is read), or too few patients; (exit code 11)
            ``out`` holds something that this tool did not write.
    """
    found = find_source(source)
    table = read_ccs(ccs) if ccs is not None else None
    stays, left_out = choose_stays(found)
    stays = stays.join(body_measures(found, stays)).join(add_outcomes(found, stays, ccs=table).add_prefix("outcome_"))
    stays["ecg"] = choose_ecgs(found, stays)
    folders = {site: out / site for site in sorted(set(stays["site"]))}
    study = _study(found, stays, phenotypes=table is not None)
    output.claim(out, folders=list(folders))
    for folder in folders.values():
        for kind in ("ecg", "text"):
            (folder / kind).mkdir()
    write_events(found, stays, folders, scratch=out)
    write_prescriptions(found, stays, folders)
    stays = stays.join(write_notes(found, stays, folders)).assign(ecg_path=copy_ecgs(found, stays, folders))
    samples = {site: _samples(stays[stays["site"] == site]) for site in folders}
    for site, rows in samples.items():
        rows.to_csv(folders[site] / "samples.csv", index=False, encoding="utf-8", lineterminator="\n")
        header = plan.SITE_HEADER.format(found=found.said) + (plan.PHENOTYPE_NOTE if table else "")
        model = plan.site_of(site, ecg=found.ecg is not None, phenotypes=table is not None)
        write_model(folders[site] / "site.toml", model, header=header)
    write_model(out / "study.toml", study, header=plan.STUDY_HEADER.format(found=found.said))
    output.seal(out)
    done = summary(samples, study=out / "study.toml", left_out=left_out)
    return replace(done, notes=(found.said.replace("\n", " "),))


def _samples(stays: pd.DataFrame) -> pd.DataFrame:
    """``samples.csv`` of a site."""
    outcomes = stays.filter(regex="^outcome_").rename(columns=lambda name: name.removeprefix("outcome_"))
    inputs = pd.DataFrame(
        {
            "patient_id": stays["subject_id"],
            "sample_id": stays["stay_id"],
            "index_time": stays["index_time"] - BACK,
            "age": stays["age"],
            "sex": stays["gender"],
            **{name: stays[name] for name in ("height", "weight", "bmi", "ecg_path", "text_path", "text_time")},
        }
    )
    return inputs.join(outcomes)


def _study(found: Source, stays: pd.DataFrame, *, phenotypes: bool) -> Study:
    subjects = stays["subject_id"].astype(str).groupby(stays["site"]).unique()
    patients = {str(site): sorted(ids) for site, ids in subjects.items()}
    return plan.study_of(patients, vitals=found.chart is not None, ecg=found.ecg is not None, phenotypes=phenotypes)
