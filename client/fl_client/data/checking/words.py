"""What the terminal and the page say of a `summary`, in the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_STEPS = {
    "rows": "rows of the samples table",
    "index_time_ok": "with an index time that is known and past",
    "after_outcome_check": "with no outcome before the index time",
    "usable": "usable: at least one modality",
}
_UNITS = {
    "1": "", "a": "years", "Cel": "°C", "mm[Hg]": "mmHg", "10*9/L": "10⁹/L", "10*12/L": "10¹²/L", "umol/L": "µmol/L",
    "mL/min/{1.73_m2}": "mL/min/1.73 m²", "kg/m2": "kg/m²", "ug/L": "µg/L", "m[IU]/L": "mIU/L", "cm[H2O]": "cmH₂O",
    "[pH]": "",
}  # fmt: skip
NOTHING = "–"


def flow_steps(summary: Mapping[str, Any]) -> Sequence[tuple[str, object]]:
    """Steps of the cohort flow in words, and what is left after each."""
    return [(_STEPS.get(step, step), count) for step, count in summary["flow"].items()]


def complete(fields: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    """Fields that no sample with the modality lacks."""
    return [field for field, told in fields.items() if told["missing"] == 0]


def unit(ucum: str) -> str:
    """A UCUM code as a clinician writes it."""
    return _UNITS.get(ucum, ucum)


def number(value: float | None) -> str:
    """``63.5``, never in powers of ten."""
    return NOTHING if value is None else np.format_float_positional(value, trim="-")


def average(item: Mapping[str, Any]) -> str:
    """``63 (54–71) years``."""
    if item["median"] is None:
        return NOTHING
    ends = f", {number(item['min'])} to {number(item['max'])}" if "min" in item else ""
    words = f"{number(item['median'])} ({number(item['q1'])}–{number(item['q3'])}{ends})"
    return f"{words} {unit(item.get('unit', ''))}".strip()


def counted(part: Mapping[str, Any]) -> str:
    """``120 (40.3 %)``, ``<10``, or a share alone."""
    if part["percent"] is None:
        return NOTHING if part["count"] is None else str(part["count"])
    if part["count"] is None:
        return f"about {part['percent']} %"
    return f"{part['count']} ({part['percent']} %)"


def label_line(entry: dict[str, Any], task: Mapping[str, Any]) -> str:
    """``43 (21.5 %) positive of 200 labelled``, and the like for every type of task."""
    known = f"of {entry['labelled']} labelled"
    if task["type"] == "regression":
        return f"median {average(entry | {'unit': task['unit']})} {known}"
    if task["type"] in ("survival", "competing"):
        days = entry["median_follow_up_days"]
        follow_up = f"{number(days)} days" if days is not None else "not reached or not told"
        return f"{_of(entry['events'], entry)} events {known}; median follow-up {follow_up}"
    if task["type"] == "multiclass":
        return f"{_of(entry['count'], entry)} {known}"
    if task["type"] == "segmentation":
        return f"{_of(entry['positive'], entry)} show it, of {entry['labelled']} with masks"
    return f"{_of(entry['positive'], entry)} positive {known}"


def share_of(entry: Mapping[str, Any]) -> object:
    """Of the labelled: those with the outcome, or of the class; None where there is no such count."""
    return next((entry[key] for key in ("positive", "count", "events") if key in entry), None)


def _of(count: object, entry: Mapping[str, Any]) -> str:
    whole = entry["labelled"]
    if isinstance(count, int) and isinstance(whole, int) and whole:
        return f"{count} ({100 * count / whole:.1f} %)"
    return str(count)
