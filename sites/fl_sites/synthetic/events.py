"""Irregular measurements around the index time, in MEDS columns; the latest are from after it, on purpose.

Vital signs come in dense rows in the last two days, laboratory values in panels over four weeks. They drift towards
the state at the index time. After the index time the values of those who will die within a year are plainly worse: a
reader that lets the future in shows a discrimination that no honest model reaches.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fl_shared.concepts import concept
from fl_sites.synthetic.hospitals import Hospital
from fl_sites.synthetic.measures import LABORATORY, VITAL_SIGNS, State, draw_measure, in_unit

WEEKS, DAYS_AFTER = 4, 5.0
_WORSE = 3.0  # added to the severity after the index time, in who will die
_DETECTION = 5.0  # ng/L: a troponin below is told in words, without a number
_TYPES = {
    "time": pa.timestamp("us"),
    "code": pa.string(),
    "numeric_value": pa.float32(),
    "text_value": pa.string(),
}
_LABEL = {"synthetic": "SYNTHETIC: drawn by fl-sites synthesize, no patient stands behind these values"}
Floats = NDArray[np.float64]


def draw_events(rng: np.random.Generator, hospital: Hospital, records: pd.DataFrame) -> pd.DataFrame:
    """The series of all records: ``subject_id``, ``time`` (naive, local), ``code``, ``numeric_value``, ``text_value``.

    Args:
        rng: source of times and values.
        hospital: its codes and units.
        records: latent state, index time and outcomes (for the rows after the index time).
    """
    records = records.assign(drift=rng.normal(0.3, 0.2, len(records)))
    # after a record that others follow nothing is drawn: it would be their past
    late = np.where(records["gap"] == 0, np.minimum(DAYS_AFTER, records["death_days"]), 0)
    plan = [
        (VITAL_SIGNS, 10, -2.0 * np.ones(len(records))),
        (VITAL_SIGNS, 4, -7.0 * WEEKS * np.ones(len(records))),
        (LABORATORY, 4, -7.0 * WEEKS * np.ones(len(records))),
        (LABORATORY + VITAL_SIGNS, 2, late),
    ]
    found = []
    for names, count, span in plan:
        row = np.repeat(np.arange(len(records)), rng.poisson(count, len(records)) * (span != 0))
        days = rng.uniform(0, 1, len(row)) * span[row]
        found += [_series(rng, hospital, records.iloc[row], name, days) for name in names]
    return pd.concat(found, ignore_index=True)


def _series(
    rng: np.random.Generator, hospital: Hospital, records: pd.DataFrame, name: str, days: Floats
) -> pd.DataFrame:
    """A quantity measured at ``days`` (relative to the index time, a row of ``records`` each), a fifth left out."""
    done = rng.random(len(days)) < 0.8
    records, days = records[done], days[done]
    drift = records["drift"].to_numpy() * days / (7 * WEEKS)
    worse = _WORSE * records["death"].to_numpy()
    state = State(
        severity=records["severity"].to_numpy() + np.where(days > 0, worse, drift),
        kidney=records["kidney"].to_numpy(),
        diabetes=records["diabetes"].to_numpy(dtype=float),
    )
    told = _told(name, hospital, draw_measure(rng, name, state))
    time = records["index_time"].to_numpy() + pd.to_timedelta((days * 86_400).round(), unit="s").to_numpy()
    return told.assign(subject_id=records["patient_id"].to_numpy(), time=time)


def _told(name: str, hospital: Hospital, values: Floats) -> pd.DataFrame:
    """Values as the hospital writes them: its code, its unit, ``<limit`` below what the assay can see."""
    what, unit = concept(name), hospital.units.get(name, concept(name).unit)
    told = in_unit(values, unit, what)
    below = values < _DETECTION if name == "troponin" else np.zeros(len(values), dtype=bool)
    limit = f"<{float(in_unit(np.array(_DETECTION), unit, what)):g}"
    return pd.DataFrame(
        {
            "code": hospital.codes[name],
            "numeric_value": np.where(below, np.nan, told),
            "text_value": [limit if unseen else None for unseen in below],
        }
    )


def write_events(path: Path, events: pd.DataFrame) -> None:
    """Write parquet, sorted by subject and time as MEDS wants it; the label is in the schema's metadata.

    MEDS wants int64 subjects. A hospital whose ids begin with zeros has to keep them as text, or nobody could match
    them any more.
    """
    ordered = events.sort_values(["subject_id", "time", "code"], kind="stable", ignore_index=True)
    padded = ordered["subject_id"].str.startswith("0").any()
    subject = pa.string() if padded else pa.int64()
    typed = ordered.astype({"time": "datetime64[us]", "subject_id": "str" if padded else "int64"})
    schema = pa.schema({"subject_id": subject} | _TYPES, metadata=_LABEL)
    pq.write_table(pa.Table.from_pandas(typed, schema=schema, preserve_index=False), path)
