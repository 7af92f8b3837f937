"""PhysioNet/CinC Challenge 2012: 48 hours of intensive care, one site folder for each type of ICU.

Source: Silva et al., Predicting in-hospital mortality of ICU patients: the PhysioNet/Computing in Cardiology Challenge
2012, Comput Cardiol 2012;39:245-248 (ODC-BY 1.0). Reads an unmodified download of set A.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from fl_sites import output
from fl_sites.importers.imported import Imported, summary
from fl_sites.importers.physionet_2012_plan import HOURS, SITE_HEADER, SITES, STUDY_HEADER, site, study
from fl_sites.importers.physionet_2012_source import ARCHIVE, OUTCOMES, read_source
from fl_sites.study_file import write_model

TITLE = "PhysioNet Challenge 2012: irregular ICU series of 48 hours (Silva et al., CinC 2012, ODC-BY 1.0)"
DOWNLOAD = "https://physionet.org/content/challenge-2012/"
NEEDS = (f"{ARCHIVE} (or set-a/, unpacked)", OUTCOMES)
ADMISSION = pd.Timestamp("2000-01-01")
HORIZON = 365.0  # days after the index time
_MEDS = pa.schema(
    [
        ("subject_id", pa.int64()),
        ("time", pa.timestamp("us")),
        ("code", pa.string()),
        ("numeric_value", pa.float32()),
        ("text_value", pa.string()),
    ]
)


def import_physionet_2012(source: Path, out: Path) -> Imported:
    """Turn a download into ``out/icu_<type>`` folders and ``out/study.toml``.

    Args:
        source: folder with ``Outcomes-a.txt`` and ``set-a.tar.gz`` (or the unpacked ``set-a``).
        out: folder to write.

    Raises:
        ConsiliumError: (exit code 12) the download is wrong or incomplete: everything at once; (exit code 11) ``out``
            holds something that this tool did not write.
    """
    found = read_source(source)
    samples, unit = _samples(found.stays), found.stays["ICUType"]
    sites = {SITES[number]: samples[unit == number] for number in SITES if (unit == number).any()}
    output.claim(out, folders=list(sites))
    events = found.series.sort_values(["RecordID", "minutes"], kind="stable")
    for name, table in sites.items():
        table.to_csv(out / name / "samples.csv", index=False, encoding="utf-8")
        _write_events(out / name / "events.parquet", events[events["RecordID"].isin(table.index)])
        write_model(out / name / "site.toml", site(name), header=SITE_HEADER)
    write_model(out / "study.toml", study(sites), header=STUDY_HEADER)
    output.seal(out)
    return summary(sites, study=out / "study.toml", left_out={"unknown type of ICU": int(unit.isna().sum())})


def _samples(stays: pd.DataFrame) -> pd.DataFrame:
    """One row a stay (index RecordID)."""
    ids = stays.index.astype(str)
    days, event = survival(stays["Survival"].to_numpy(dtype=np.float64))
    return pd.DataFrame(
        {
            "patient_id": ids,
            "sample_id": ids,
            "index_time": (ADMISSION + pd.Timedelta(hours=HOURS)).isoformat(),
            "age": stays["Age"],
            "sex": stays["Gender"].astype("Int64"),
            "height": stays["Height"],
            "weight": stays["Weight"],
            "in_hospital_death": stays["In-hospital_death"].astype("Int64"),
            "los_days": stays["Length_of_stay"].astype("Int64"),
            "survival_days": days,
            "survival_event": pd.Series(event, index=stays.index).astype("Int64"),
        },
        index=stays.index,
    )


def survival(days: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Survival of the release -> days after the index time, and event (1: died); NaN where it cannot be told.

    The release counts whole days from admission to a recorded death, in or out of hospital; NaN here (-1 there) says
    that no death was recorded. Such a stay is censored at `HORIZON`, as is a later death. Censoring at discharge would
    leave hardly anybody but those with a recorded death at risk after a month: 61 % would seem to die within a year,
    where 26 % did. A stay of the set lasts 48 hours at least, so that a death counted on day 1 or 2 came later than
    the index time: half a day after it. 0 contradicts the set (those stays are marked as survivors): unknown.

    Args:
        days: (N,), whole days, NaN for -1.
    """
    since = np.maximum(days - HOURS / 24, 0.5)
    time = np.where(np.isnan(days), HORIZON, np.minimum(since, HORIZON))
    event = np.where(np.isnan(days), 0.0, (since <= HORIZON).astype(np.float64))
    return np.where(days == 0, np.nan, time), np.where(days == 0, np.nan, event)


def _write_events(path: Path, series: pd.DataFrame) -> None:
    """The series in MEDS columns, times from the made-up admission."""
    time = np.datetime64(ADMISSION, "us") + series["minutes"].to_numpy().astype("timedelta64[m]")
    columns = [
        pa.array(series["RecordID"].to_numpy()),
        pa.array(time.astype("datetime64[us]")),
        pa.array(series["Parameter"].astype(str), pa.string()),
        pa.array(series["Value"].to_numpy(dtype=np.float32)),
        pa.nulls(len(series), pa.string()),
    ]
    parquet.write_table(pa.Table.from_arrays(columns, schema=_MEDS), path)
