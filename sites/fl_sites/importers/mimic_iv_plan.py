"""``site.toml`` of a pseudo-site of MIMIC-IV, and a study over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.site import Site
from fl_shared.study import EvaluationPlan, Study
from fl_sites.importers.ccs import PHENOTYPES
from fl_sites.importers.imported import PUBLIC
from fl_sites.importers.mimic_iv_codes import CODES, concepts
from fl_sites.importers.mimic_iv_stays import HOURS
from fl_sites.study_file import LEADS, plan_sites

EVALUATION = EvaluationPlan(holdout=0.2, salt="mimic-iv-held-out", bootstrap=1000, min_patients=10)
STATIC = ("age", "sex", "height", "weight", "bmi")
_EXTERNAL = "icu_coronary"  # where it is large enough; the last site otherwise

_COMMON = """MIMIC-IV: Johnson et al., Sci Data 2023;10:1, doi 10.1038/s41597-022-01899-x.
{found}
MIMIC-IV is ONE hospital (Beth Israel Deaconess, Boston). A site here is a type of intensive care unit: a pseudo-site,
of the stay's first unit. Results between them say nothing about another hospital.
A sample is an ICU stay of at least 48 h; the index time is 48 h after admission to the unit. Inputs end there: lab
results count from when they were stored; of notes only radiology reports and summaries of earlier admissions; no
diagnosis code. All times are 73,049 days (200 years) earlier than in the release, whose years lie in the future."""
SITE_HEADER = (
    _COMMON
    + """
Whoever holds MIMIC-IV itself (not its open demo) signed a data use agreement: it covers this folder too.
Outcomes:
- in_hospital_death: hospital_expire_flag of the admission. los_days: length of the whole ICU stay.
- survival: days from the index time to death of any cause; censored a year after discharge (later deaths are not in
  the release).
- cvd_90d: admitted again within 90 days after discharge with a principal diagnosis I00-I99 (ICD-10) or 390-459
  (ICD-9). Empty: died in hospital, died within 90 days without it, or discharged in what may be the last year."""
)
STUDY_HEADER = (
    _COMMON
    + """
A start: copy it, then change what you like. The sites also map the tasks 'los_days' (regression) and 'survival'.
'patients' counts the training patients (not held out under [evaluation] salt); recount when you change the salt."""
)
PHENOTYPE_NOTE = """
- phenotypes: the admission has a diagnosis of the CCS category (AHRQ); empty where its ICD version was not given."""


def site_of(name: str, *, ecg: bool, phenotypes: bool) -> Site:
    """``site.toml`` of a pseudo-site."""
    modalities: dict[str, dict[str, Any]] = {
        "ehr": {"kind": "table"},
        "series": {
            "kind": "events",
            "file": "events.parquet",
            "codes": {c: m.model_dump(exclude_unset=True) for c, m in CODES.items()},
        },
        "text": {
            "kind": "text",
            "column": "text_path",
            "time_column": "text_time",
            "medications": {"file": "prescriptions.csv"},
        },
    }
    tasks: dict[str, dict[str, Any]] = {
        "in_hospital_death": {"type": "binary", "columns": {"value": "in_hospital_death"}},
        "los_days": {"type": "regression", "columns": {"value": "los_days"}, "unit": "d"},
        "cvd_90d": {"type": "binary", "columns": {"value": "cvd_90d"}},
        "survival": {
            "type": "survival",
            "columns": {"time": "survival_days", "event": "survival_event"},
            "unit": "d",
        },
    }
    if ecg:
        modalities["ecg"] = {"kind": "waveform", "column": "ecg_path"}
    if phenotypes:
        tasks["phenotypes"] = {"type": "multilabel", "columns": {label: f"phenotype_{label}" for label in PHENOTYPES}}
    return Site.model_validate(
        {
            "schema": 1,
            "name": name,
            "title": f"MIMIC-IV, {name.replace('_', ' ').replace('icu', 'ICU:')}",
            "samples": "samples.csv",
            "data_root": ".",
            "encoding": "utf-8",
            "timezone": "UTC",  # shifted dates have no summer time
            "columns": {
                "age": {"concept": "age", "unit": "a"},
                "sex": {"concept": "sex", "codes": {"M": 0, "F": 1}},
                "height": {"concept": "height", "unit": "[in_i]"},
                "weight": {"concept": "weight", "unit": "[lb_av]"},
                "bmi": {"concept": "bmi", "unit": "kg/m2"},
            },
            "modalities": modalities,
            "tasks": tasks,
            **PUBLIC,
        }
    )


def study_of(patients: Mapping[str, Sequence[str]], *, vitals: bool, ecg: bool, phenotypes: bool) -> Study:
    """A study over every pseudo-site that is large enough to be judged (all, where none is).

    Raises:
        ConsiliumError: (exit code 12) no site has a patient to train on.
    """
    large = {name: ids for name, ids in patients.items() if len(ids) >= EVALUATION.min_patients} or dict(patients)
    last = list(large)[-1] if len(large) > 1 else None
    sites = plan_sites(large, external=_EXTERNAL if _EXTERNAL in large and last else last, plan=EVALUATION)
    sites = {name: part for name, part in sites.items() if part.role == "external" or part.patients}
    training = sum(part.role == "train" for part in sites.values())
    if not training:
        problem, mend = "too few patients to train on some and to judge by others", "Use a larger download."
        value = str(sum(map(len, patients.values())))
        fault = Fault(file="icu/icustays.csv.gz", key="patients", value=value, problem=problem, mend=mend)
        raise ConsiliumError("no study can be made of this download", code=ExitCode.DATA, faults=[fault])
    modalities: dict[str, dict[str, Any]] = {
        "ehr": {"kind": "table", "fields": STATIC},
        "series": {
            "kind": "events",
            "fields": concepts(vitals=vitals),
            "hours": float(HOURS),
            "bins": HOURS,
        },
        "text": {"kind": "text"},
    }
    tasks: dict[str, dict[str, Any]] = {
        "in_hospital_death": {"type": "binary"},
        "cvd_90d": {"type": "binary"},
    }
    if ecg:
        modalities["ecg"] = {"kind": "waveform", "leads": LEADS, "rate": 100.0, "seconds": 10.0}
    if phenotypes:
        tasks["phenotypes"] = {"type": "multilabel", "labels": tuple(PHENOTYPES)}
    return Study.model_validate(
        {
            "schema": 1,
            "name": "mimic_iv",
            "seed": 0,
            "sites": {name: part.model_dump(exclude_unset=True) for name, part in sites.items()},
            "tasks": tasks,
            "modalities": modalities,
            "model": {"system": "attention", "modality_dropout": 0.3},
            "training": {"rounds": 10, "steps": 20, "batch": 16, "learning_rate": 1e-3, "encoders": "shared"},
            "privacy": {"mode": "none"},
            "rounds": {"quorum": training // 2 + 1},
            "evaluation": EVALUATION.model_dump(exclude_unset=True),
        }
    )
