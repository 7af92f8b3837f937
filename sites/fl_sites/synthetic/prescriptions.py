"""Prescriptions in the hospital's language, by the state and the diseases; the last ones are after the index time.

Columns as ``fl_shared.site.MedicationTable`` names them. What is prescribed after the index time follows the outcome,
on purpose: a reader has to drop it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = ("subject_id", "time", "drug", "dose", "unit", "route", "frequency")
_DRUGS = {  # key -> German, Chinese, English
    "ramipril": ("Ramipril", "雷米普利", "ramipril"),
    "bisoprolol": ("Bisoprolol", "比索洛尔", "bisoprolol"),
    "torasemide": ("Torasemid", "托拉塞米", "torasemide"),
    "spironolactone": ("Spironolacton", "螺内酯", "spironolactone"),
    "amiodarone": ("Amiodaron", "胺碘酮", "amiodarone"),
    "aspirin": ("ASS", "阿司匹林", "aspirin"),
    "metformin": ("Metformin", "二甲双胍", "metformin"),
    "amlodipine": ("Amlodipin", "氨氯地平", "amlodipine"),
    "dobutamine": ("Dobutamin", "多巴酚丁胺", "dobutamine"),
}
_WORDS = {  # oral, intravenous; once, twice, continuous
    "de": (("oral", "i.v."), ("1-0-0", "1-0-1", "Perfusor")),
    "zh": (("口服", "静脉"), ("每日一次", "每日两次", "持续泵入")),
    "en": (("oral", "iv"), ("od", "bd", "infusion")),
}
_LANGUAGES = ("de", "zh", "en")


def draw_prescriptions(rng: np.random.Generator, *, language: str, record: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The prescriptions of one record, values in the order of `COLUMNS`; times are naive, local.

    Args:
        rng: source of times, doses and who gets what.
        language: de, zh or en.
        record: latent state, ``patient_id``, ``index_time`` and the outcome ``death`` (for what comes after).
    """
    routes, frequencies = _WORDS[language]
    rows = [
        (key, dose, routes[0], frequencies[often], -rng.uniform(0.1, 60)) for key, dose, often in _chosen(rng, record)
    ]
    # after a record that others follow nothing is drawn: it would be their past
    if record["gap"] == 0 and rng.random() < (0.6 if record["death"] else 0.02):
        until = min(5.0, record["death_days"])
        rows.append(("dobutamine", "250", routes[1], frequencies[2], rng.uniform(0, until)))
    index, name = _LANGUAGES.index(language), record["patient_id"]
    when = [record["index_time"] + pd.Timedelta(seconds=round(days * 86_400)) for *_, days in rows]
    return [
        (name, f"{time:%Y-%m-%dT%H:%M:%S}", _DRUGS[key][index], dose, "mg", route, frequency)
        for time, (key, dose, route, frequency, _) in zip(when, rows, strict=True)
    ]


def _chosen(rng: np.random.Generator, record: Mapping[str, Any]) -> Iterator[tuple[str, str, int]]:
    """Drug, dose in mg, and 0 (once) or 1 (twice a day): by heart failure, rhythm and the other diseases."""
    failure, rhythm = record["severity"] + rng.normal(0, 0.4), record["rhythm"] + rng.normal(0, 0.4)
    if failure < 1.3:
        yield "ramipril", "2.5" if failure < -0.5 else "5", 0
    if failure > -0.5:
        yield "bisoprolol", "2.5" if failure < 0.4 else "5", 0
    if failure > 0.4:
        yield "torasemide", "10" if failure < 1.3 else "40", 0
    if failure > 1.3:
        yield "spironolactone", "25", 0
    if rhythm > 1.2:
        yield "amiodarone", "200", 0
    if record["scar"] > 0 and rng.random() < 0.9:
        yield "aspirin", "100", 0
    if record["diabetes"] and rng.random() < 0.8:
        yield "metformin", "1000", 1
    if record["hypertension"] and rng.random() < 0.3:
        yield "amlodipine", "5", 0
