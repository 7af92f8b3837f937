"""What the PhysioNet Challenge 2012 means: its variables in concepts and units, sites, tasks, a study to start from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from fl_shared.site import Site
from fl_shared.study import EvaluationPlan, Study
from fl_sites.importers.imported import PUBLIC
from fl_sites.study_file import plan_sites

EVALUATION = EvaluationPlan(holdout=0.2, salt="physionet-2012-held-out", bootstrap=1000, min_patients=10)
SITES = {1: "icu_coronary", 2: "icu_cardiac_surgery", 3: "icu_medical", 4: "icu_surgical"}
"""Type of ICU in the release -> site."""
EXTERNAL = "icu_coronary"  # why: STUDY_HEADER
HOURS = 48  # from admission to the index time
STAY_CUTS = (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 14.0)
"""Days, as Harutyunyan et al. (Sci Data 2019) cut lengths of stay into ten classes."""
TASKS: Mapping[str, Mapping[str, Any]] = {
    "in_hospital_death": {"type": "binary"},
    "los_days": {"type": "regression", "loss": "msle", "scale": 10.0, "cuts": STAY_CUTS},
    "survival": {"type": "survival", "horizon": 365.0, "windows": [30.0, 90.0, 365.0]},
}
PHASES = (
    {"name": "training", "rounds": 6, "learning_rate": 1e-3},
    {"name": "settling", "rounds": 2, "learning_rate": 2e-4},
    {"name": "resting", "rounds": 2, "learning_rate": 5e-5},
)
"""Smaller and smaller steps: Adam at one rate ends wherever its last batches were."""
_STATIC: Mapping[str, Mapping[str, Any]] = {
    "age": {"concept": "age", "unit": "a"},
    "sex": {"concept": "sex", "codes": {"1": 0, "0": 1}},  # 1 is male in the source
    "height": {"concept": "height", "unit": "cm"},
    "weight": {"concept": "weight", "unit": "kg"},
}
CODES: Mapping[str, tuple[str, str]] = {
    "Albumin": ("albumin", "g/dL"),
    "ALP": ("alp", "[IU]/L"),
    "ALT": ("alt", "[IU]/L"),
    "AST": ("ast", "[IU]/L"),
    "Bilirubin": ("bilirubin", "mg/dL"),
    "BUN": ("urea", "mg{urea_nitrogen}/dL"),
    "Cholesterol": ("cholesterol", "mg/dL"),
    "Creatinine": ("creatinine", "mg/dL"),
    "DiasABP": ("dbp_invasive", "mm[Hg]"),
    "FiO2": ("fio2", "1"),
    "GCS": ("gcs", "1"),
    "Glucose": ("glucose", "mg/dL"),
    "HCO3": ("bicarbonate", "mmol/L"),
    "HCT": ("haematocrit", "%"),
    "HR": ("heart_rate", "/min"),
    "K": ("potassium", "meq/L"),
    "Lactate": ("lactate", "mmol/L"),
    "MAP": ("map_invasive", "mm[Hg]"),
    "MechVent": ("mechanical_ventilation", "1"),
    "Mg": ("magnesium", "mg/dL"),
    "Na": ("sodium", "meq/L"),
    "NIDiasABP": ("dbp", "mm[Hg]"),
    "NIMAP": ("map", "mm[Hg]"),
    "NISysABP": ("sbp", "mm[Hg]"),
    "PaCO2": ("paco2", "mm[Hg]"),
    "PaO2": ("pao2", "mm[Hg]"),
    "pH": ("ph", "[pH]"),
    "Platelets": ("platelets", "10*9/L"),
    "RespRate": ("respiratory_rate", "/min"),
    "SaO2": ("sao2", "%"),
    "SysABP": ("sbp_invasive", "mm[Hg]"),
    "Temp": ("temperature", "Cel"),
    "TroponinI": ("troponin_i", "ug/L"),
    "TroponinT": ("troponin_t", "ug/L"),
    "Urine": ("urine_output", "mL"),
    "WBC": ("leukocytes", "10*9/L"),
    "Weight": ("weight", "kg"),
}


def site(name: str) -> Site:
    """The site file of one type of ICU."""
    return Site.model_validate(
        {
            "schema": 1,
            "name": name,
            "title": f"PhysioNet Challenge 2012, {name.replace('_', ' ').replace('icu', 'ICU:')}",
            "samples": "samples.csv",
            "timezone": "UTC",
            "columns": _STATIC,
            "modalities": {
                "ehr": {"kind": "table"},
                "series": {
                    "kind": "events",
                    "file": "events.parquet",
                    "codes": {code: {"concept": concept, "unit": unit} for code, (concept, unit) in CODES.items()},
                },
            },
            "tasks": {
                "in_hospital_death": {"type": "binary", "columns": {"value": "in_hospital_death"}},
                "los_days": {"type": "regression", "columns": {"value": "los_days"}, "unit": "d"},
                "survival": {
                    "type": "survival",
                    "columns": {"time": "survival_days", "event": "survival_event"},
                    "unit": "d",
                },
            },
            **PUBLIC,
        }
    )


def study(sites: Mapping[str, pd.DataFrame]) -> Study:
    """The study over the sites: name -> samples table."""
    external = EXTERNAL if EXTERNAL in sites and len(sites) > 1 else None
    plans = plan_sites({n: t["patient_id"] for n, t in sites.items()}, external=external, plan=EVALUATION)
    training = sum(plan.role == "train" for plan in plans.values())
    return Study.model_validate(
        {
            "schema": 1,
            "name": "physionet_2012",
            "seed": 0,
            "sites": {name: plan.model_dump(exclude_unset=True) for name, plan in plans.items()},
            "tasks": TASKS,
            "modalities": {
                "ehr": {
                    "kind": "table",
                    "encoder": "table_mlp",
                    "fields": [column["concept"] for column in _STATIC.values()],
                },
                "series": {
                    "kind": "events",
                    "encoder": "events_summary",
                    "fields": [concept for concept, _ in CODES.values()],
                    "hours": HOURS + 1.0,  # a window leaves out its first moment, where every stay has values
                    "bins": HOURS + 1,
                },
            },
            "model": {"system": "attention", "dropout": 0.5, "modality_dropout": 0.1},
            "training": {
                "rounds": sum(phase["rounds"] for phase in PHASES),
                "steps": 30,
                "batch": 64,
                "weight_decay": 0.1,
                "encoders": "shared",
                "phases": PHASES,
            },
            "privacy": {"mode": "none"},
            "rounds": {"quorum": training // 2 + 1},
            "evaluation": EVALUATION.model_dump(exclude_unset=True),
        }
    )


SITE_HEADER = """One type of ICU of the PhysioNet/CinC Challenge 2012 (ODC-BY 1.0): Silva et al., Comput Cardiol
2012;39:245-248. All four are units of one hospital. Public data, hence allow_without_privacy.
The release has no dates: every admission is written as 2000-01-01 00:00, and the index time is 48 hours later. It has
no patient ids: every stay counts as a patient. -1 in the source (unknown) is an empty cell, or no event.
Magnesium is labelled mmol/L in the release; its values (median 2) are mg/dL, and so declared.
los_days counts from admission to the end of the hospital stay, the first 48 hours and those who died included.
survival counts from the index time: a recorded death, in or out of hospital, within 365 days is an event. Those without
a recorded death and those who died later are censored at 365 days, which takes the death register to be complete for a
year. (Censored at discharge, hardly anybody but the dead would stay at risk: in 3,001 stays 61 % would seem to die
within a year, where 26 % did.) Deaths are told in whole days since admission; one on day 1 or 2 is written as half a
day after the index time. Day 0 contradicts a set of stays of 48 hours or more: left empty."""
STUDY_HEADER = """A study over the types of ICU of the PhysioNet Challenge 2012. A start: copy it, then change what you
like. Coronary care judges: of the four the question closest to prognosis in cardiology, with deaths enough.
Series are read by fixed summaries: with so few patients they hold more than what a network finds by itself. Death in
hospital, length of stay and survival are learned together, which also helps the first.
'patients' counts the training patients (not held out under [evaluation] salt); recount when you change the salt."""
