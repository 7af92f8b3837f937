"""The ``site.toml`` of a synthetic hospital."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from fl_shared.site import Site
from fl_sites.synthetic.cine import MYOCARDIUM, SCAR
from fl_sites.synthetic.hospitals import Hospital
from fl_sites.synthetic.outcomes import CAUSES, COURSE, EVENTS, FOLLOW_UP, LONG_STAY, MACCE
from fl_sites.synthetic.patients import MEASURED
from fl_sites.synthetic.phenotypes import FIRST, PHENOTYPES
from fl_sites.synthetic.words import CLASSES, OUTCOME_WORDS

SITE_HEADER = """SYNTHETIC: no patient stands behind these files (fl-sites synthesize)."""
MODALITIES = ("cine", "ecg", "ehr", "series", "text")
"""What a site can have; ``series`` are the irregular measurements of the EHR."""

QUICK = ("ecg", "ehr", "text")
"""Without images and series: drawn in seconds."""

DRAWN = ("myocardium", "fibrosis")
"""Labels of the task 'fibrosis', in order; the cavity is background."""


def site_file(name: str, hospital: Hospital, *, modalities: Collection[str]) -> Site:
    """The site as its hospital would describe it."""
    inputs = _modalities(hospital)
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
                **{column: _mapped(hospital, column) for column in MEASURED},
            },
            "modalities": {modality: inputs[modality] for modality in MODALITIES if modality in modalities},
            "tasks": _tasks(CLASSES[hospital.language]),
            "subgroups": {name: {"column": f"phenotype_{name}", "codes": {"0": "no", "1": "yes"}} for name in FIRST},
            "privacy": {"epsilon_cap": 20.0, "allow_without_privacy": True},
            "resources": {"actors": 1, "threads": 1},
            "network": {"superlink": "127.0.0.1:9092"},
        }
    )


def _mapped(hospital: Hospital, concept: str) -> dict[str, str]:
    unit = {"unit": hospital.units[concept]} if concept in hospital.units else {}
    return {"concept": concept} | unit


def _modalities(hospital: Hospital) -> dict[str, dict[str, Any]]:
    codes = {code: _mapped(hospital, concept) for concept, code in hospital.codes.items()}
    return {
        "cine": {"kind": "cine", "column": "cine_path", "mask_column": "mask_path"},
        "ecg": {"kind": "waveform", "column": "ecg_path"},
        "ehr": {"kind": "table"},
        "series": {"kind": "events", "file": "events.parquet", "codes": codes},
        "text": {
            "kind": "text",
            "column": "text_path",
            "time_column": "text_time",
            "leakage_words": OUTCOME_WORDS[hospital.language],
            "medications": {"file": "prescriptions.csv"},
        },
    }


def _tasks(words: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Every outcome of the samples table. ``words``: label of a class -> what the hospital writes."""

    def one(column: str, kind: str = "binary", **more: object) -> dict[str, Any]:
        return {"type": kind, "columns": {"value": column}, **more}

    def several(labels: Iterable[str], prefix: str = "") -> dict[str, Any]:
        return {"type": "multilabel", "columns": {label: prefix + label for label in labels}}

    def classes(labels: Iterable[str]) -> dict[str, str]:
        return {words[label]: label for label in labels}

    def survival(what: str) -> dict[str, Any]:
        return {"type": "survival", "columns": {"time": f"{what}_days", "event": f"{what}_event"}, "unit": "d"}

    return {
        "death": one("death"),
        "events": several(EVENTS),
        "survival": survival("death"),
        "death_by_cause": {
            "type": "competing",
            "columns": {"time": "death_days", "cause": "death_cause"},
            "classes": classes(CAUSES),
            "unit": "d",
        },
        "cause_of_death": one("death_cause", "multiclass", classes=classes(CAUSES)),
        "macce": several(MACCE),
        "readmission": survival("readmission"),
        **{name: survival(name) for name in COURSE},
        "cvd_90d": one("cvd_90d"),
        "in_hospital_death": one("in_hospital_death"),
        "length_of_stay": one("los_days", "regression", unit="d"),
        "long_stay": one(LONG_STAY),
        "phenotypes": several(PHENOTYPES, "phenotype_"),
        "follow_up": one("follow_up", "multiclass", classes=classes(FOLLOW_UP)),
        "fibrosis": {"type": "segmentation", "classes": {str(MYOCARDIUM): DRAWN[0], str(SCAR): DRAWN[1]}},
    }
