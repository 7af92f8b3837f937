"""Heart failure survival: 299 patients with left ventricular dysfunction, one site folder.

Source: Ahmad et al., Survival analysis of heart failure patients, PLoS ONE 2017;12(7):e0181001; Chicco, Jurman, BMC Med
Inform Decis Mak 2020;20:16 (CC BY 4.0). Reads the unmodified table, in either of its two published forms: platelets
as 265000 (per uL) or as 265 (thousands per uL).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fl_shared.errors import Fault
from fl_shared.site import Site
from fl_shared.study import EvaluationPlan, Study
from fl_sites import output
from fl_sites.importers.imported import PUBLIC, Imported, incomplete, listed, missing, summary
from fl_sites.study_file import plan_sites, write_model

TITLE = "Heart failure survival: 299 patients of one site (Ahmad et al., PLoS ONE 2017, CC BY 4.0)"
DOWNLOAD = "https://archive.ics.uci.edu/dataset/519/heart+failure+clinical+records"
FILE = "heart_failure_clinical_records_dataset.csv"
NEEDS = (FILE,)
EVALUATION = EvaluationPlan(holdout=0.2, salt="heart-failure-held-out", bootstrap=1000, min_patients=10)
SITE = "faisalabad"
_COLUMNS: Mapping[str, Mapping[str, Any]] = {
    "age": {"concept": "age", "unit": "a"},
    "anaemia": {"concept": "anaemia"},
    "creatinine_phosphokinase": {"concept": "creatine_kinase", "unit": "U/L"},
    "diabetes": {"concept": "diabetes"},
    "ejection_fraction": {"concept": "lvef", "unit": "%"},
    "high_blood_pressure": {"concept": "hypertension"},
    "platelets": {"concept": "platelets"},  # and the unit, see _site
    "serum_creatinine": {"concept": "creatinine", "unit": "mg/dL"},
    "serum_sodium": {"concept": "sodium", "unit": "meq/L"},
    "sex": {"concept": "sex", "codes": {"1": 0, "0": 1}},  # 1 is male in the source
    "smoking": {"concept": "smoking", "codes": {"0": 0, "1": 2}},  # smokes or not; former smokers are not told apart
}
_TIME, _EVENT = "time", "DEATH_EVENT"
_BINARY = ("anaemia", "diabetes", "high_blood_pressure", "sex", "smoking", _EVENT)
_PATIENTS = 299
_MOST_THOUSANDS = 3000  # platelets: above it, they are counted singly
_INDEX_TIME = "2015-04-01"


def import_heart_failure(source: Path, out: Path) -> Imported:
    """Turn the table into ``out/faisalabad`` and ``out/study.toml``.

    Args:
        source: folder with the unmodified table.
        out: folder to write.

    Raises:
        ConsiliumError: (exit code 12) the download is wrong or incomplete: everything at once; (exit code 11) ``out``
            holds something that this tool did not write.
    """
    samples = _samples(_read(source))
    output.claim(out, folders=[SITE])
    samples.to_csv(out / SITE / "samples.csv", index=False, encoding="utf-8")
    singly = bool(pd.to_numeric(samples["platelets"]).max() > _MOST_THOUSANDS)
    site = _site(platelets="/uL" if singly else "10*3/uL")
    write_model(out / SITE / "site.toml", site, header=_SITE_HEADER)
    write_model(out / "study.toml", _study(samples), header=_STUDY_HEADER)
    output.seal(out)
    return summary({SITE: samples}, study=out / "study.toml")


def _read(source: Path) -> pd.DataFrame:
    """The table as text, checked."""
    mend = "Point --from at the folder that holds this file."
    faults = missing(source, NEEDS, mend=mend)
    if not faults:
        try:
            table = pd.read_csv(source / FILE, dtype=str, encoding="utf-8", keep_default_na=False)
        except ValueError:  # pandas' parser errors and wrong bytes
            table = pd.DataFrame()
        faults = list(_faults(source / FILE, table))
    if faults:
        raise incomplete(source, "heart failure survival", faults)
    return table


def _faults(path: Path, table: pd.DataFrame) -> Iterator[Fault]:
    mend = "Use the unmodified file of the release."
    if absent := [name for name in (*_COLUMNS, _TIME, _EVENT) if name not in table]:
        for name in absent:
            yield Fault(file=str(path), key=name, problem="column missing", mend=mend)
        return
    if len(table) != _PATIENTS:
        problem = f"the release has {_PATIENTS}"
        yield Fault(file=str(path), key="rows", value=str(len(table)), problem=problem, mend=mend)
    for name in (*_COLUMNS, _TIME, _EVENT):
        values = pd.to_numeric(table[name], errors="coerce")
        wrong = ~values.isin([0, 1]) if name in _BINARY else ~(values > 0)
        if wrong.any():
            value = listed([f"{cell!r}" for cell in table.loc[wrong, name].unique()])
            row = int(wrong.to_numpy().argmax()) + 2
            problem = "not 0 or 1" if name in _BINARY else "not a number above 0"
            yield Fault(file=str(path), row=row, key=name, value=value, problem=problem, mend=mend)


def _samples(table: pd.DataFrame) -> pd.DataFrame:
    """One row a patient; values as written."""
    ids = [f"{number:03d}" for number in range(1, len(table) + 1)]
    heads = pd.DataFrame({"patient_id": ids, "sample_id": ids, "index_time": _INDEX_TIME})
    outcome = table[[_TIME, _EVENT]].set_axis(["follow_up_days", "death"], axis="columns")
    return heads.join(table[list(_COLUMNS)]).join(outcome)


def _site(*, platelets: str) -> Site:
    columns = {name: dict(column) for name, column in _COLUMNS.items()}
    columns["platelets"]["unit"] = platelets
    return Site.model_validate(
        {
            "schema": 1,
            "name": SITE,
            "title": "Heart failure survival, Faisalabad",
            "samples": "samples.csv",
            "timezone": "Asia/Karachi",
            "columns": columns,
            "modalities": {"ehr": {"kind": "table"}},
            "tasks": {
                "death": {"type": "binary", "columns": {"value": "death"}},
                "survival": {"type": "survival", "columns": {"time": "follow_up_days", "event": "death"}, "unit": "d"},
            },
            **PUBLIC,
        }
    )


def _study(samples: pd.DataFrame) -> Study:
    plans = plan_sites({SITE: samples["patient_id"]}, external=None, plan=EVALUATION)
    return Study.model_validate(
        {
            "schema": 1,
            "name": "heart_failure",
            "seed": 0,
            "sites": {name: plan.model_dump(exclude_unset=True) for name, plan in plans.items()},
            "tasks": {"death": {"type": "binary"}},
            "modalities": {"ehr": {"kind": "table", "fields": [column["concept"] for column in _COLUMNS.values()]}},
            "model": {"system": "attention", "width": 32},
            "training": {"rounds": 10, "steps": 10, "batch": 32, "learning_rate": 1e-3, "encoders": "shared"},
            "privacy": {"mode": "none"},
            "rounds": {"quorum": 1},
            "evaluation": EVALUATION.model_dump(exclude_unset=True),
        }
    )


_SITE_HEADER = """Heart failure survival (CC BY 4.0): Ahmad et al., PLoS ONE 2017;12(7):e0181001; Chicco, Jurman, BMC
Med Inform Decis Mak 2020;20:16. Public data, hence allow_without_privacy.
The source has neither ids nor dates: a row is a patient, and index_time is the start of the collection for all.
Creatine kinase is labelled mcg/L in the source; it is an enzyme activity and its values are U/L.
Task 'survival' has the follow-up time (4 to 285 days) and death. Task 'death' is death at any time within that
follow-up, which differs between patients: those censored early count as alive. Prefer 'survival' for any claim."""
_STUDY_HEADER = """A study at the one site of the heart failure survival data. A start: copy it, then change what you
like. The task is death within a follow-up that differs between patients (4 to 285 days): those censored early count as
alive. The site also maps 'survival' (time and event), without that flaw.
'patients' counts the training patients (not held out under [evaluation] salt); recount when you change the salt."""
