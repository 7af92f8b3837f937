"""The ``site.toml`` and ``study.toml`` of a synthetic cohort."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fl_shared.site import Site
from fl_shared.study import EvaluationPlan, Study
from fl_sites.study_file import LEADS, plan_sites
from fl_sites.synthetic.ecg import RATE, SECONDS
from fl_sites.synthetic.hospitals import Hospital
from fl_sites.synthetic.patients import MEASURED

SITE_HEADER = """SYNTHETIC: no patient stands behind these files (fl-sites synthesize)."""
STUDY_HEADER = """SYNTHETIC: no patient stands behind these sites (fl-sites synthesize). A start: copy it, change it.
'patients' counts the training patients (not held out under [evaluation] salt); recount when you change the salt."""


def site_file(name: str, hospital: Hospital) -> Site:
    """The site as its hospital would describe it."""
    units = {concept: {"unit": unit} for concept, unit in hospital.units.items()}
    return Site.model_validate(
        {
            "schema": 1,
            "name": name,
            "title": f"{name} (synthetic)",
            "synthetic": True,
            "samples": "samples.csv",
            "data_root": ".",
            "encoding": hospital.encoding,
            "timezone": hospital.timezone,
            "columns": {
                "age": {"concept": "age"},
                "sex": {"concept": "sex", "codes": {hospital.male: 0, hospital.female: 1}},
                **{column: {"concept": column} | units.get(column, {}) for column in MEASURED},
            },
            "modalities": {
                "ecg": {"kind": "waveform", "column": "ecg_path"},
                "ehr": {"kind": "table"},
                "text": {"kind": "text", "column": "text_path"},
            },
            "tasks": {
                "death": {"columns": {"value": "death"}},
                "events": {"columns": {"decompensation": "decompensation", "arrhythmia": "arrhythmia"}},
            },
            "privacy": {"epsilon_cap": 20.0, "allow_without_privacy": True},
            "resources": {"actors": 1, "threads": 1},
            "network": {"superlink": "127.0.0.1:9092"},
        }
    )


def study_file(patients: Mapping[str, Iterable[str]], *, seed: int, evaluation: EvaluationPlan) -> Study:
    """A study over the sites: the last one is external when there are at least two."""
    external = list(patients)[-1] if len(patients) > 1 else None
    sites = plan_sites(patients, external=external, plan=evaluation)
    training = sum(plan.role == "train" for plan in sites.values())
    return Study.model_validate(
        {
            "schema": 1,
            "name": "synthetic",
            "seed": seed,
            "synthetic": True,
            "sites": {name: plan.model_dump(exclude_unset=True) for name, plan in sites.items()},
            "tasks": {
                "death": {"type": "binary"},
                "events": {"type": "multilabel", "labels": ["decompensation", "arrhythmia"]},
            },
            "modalities": {
                "ecg": {"kind": "waveform", "leads": LEADS, "rate": float(RATE), "seconds": SECONDS},
                "ehr": {"kind": "table", "fields": ["age", "sex", *MEASURED]},
                "text": {"kind": "text"},
            },
            "model": {"system": "attention", "width": 32},
            "training": {"rounds": 5, "steps": 10, "batch": 32, "learning_rate": 1e-3, "encoders": "local"},
            "privacy": {"mode": "patient", "epsilon": 8.0},
            "rounds": {"quorum": training // 2 + 1},
            "evaluation": evaluation.model_dump(),
        }
    )
