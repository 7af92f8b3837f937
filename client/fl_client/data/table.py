"""Read the samples table as text, so that no reader guesses: ids, times, numbers with ``<x``, codes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_client.data.findings import MISSING, Findings
from fl_shared.errors import Fault, nearest

REQUIRED = ("patient_id", "sample_id", "index_time")
HEADER_LINES = 2  # the first data row is line 2 of the file
_AWARE = r"\d:\d\d.*(?:[zZ]|[+-]\d\d(?::?\d\d)?)$"


def read_samples(path: Path, *, encoding: str, findings: Findings) -> pd.DataFrame:
    """All columns as stripped text; every way of writing "missing" becomes ``""``.

    Ids such as ``00123`` or ``1e5`` stay as written. A file that cannot be read is a reject and gives an empty table.
    """
    try:
        if path.suffix == ".parquet":
            frame = pd.read_parquet(path)
            _refuse_float_ids(frame, path, findings)
            text = pd.DataFrame({str(name): _as_text(frame[name]) for name in frame})
        else:
            text = pd.read_csv(path, dtype=str, encoding=encoding, keep_default_na=False, na_filter=False)
    except UnicodeDecodeError:
        problem, mend = f"not {encoding}", "Declare the true encoding in site.toml, e.g. encoding = 'gb18030'."
        findings.rejects.append(Fault(file=path.name, key="encoding", value=encoding, problem=problem, mend=mend))
        return pd.DataFrame()
    except (ValueError, OSError, ImportError) as error:  # pandas' and pyarrow's are ValueErrors; no pyarrow here
        mend = "Write a plain .csv table (or, with pyarrow installed, .parquet), one row a sample."
        value = f"{type(error).__name__}: {str(error).strip()[:120]}"
        findings.rejects.append(Fault(file=path.name, key="(file)", value=value, problem="cannot be read", mend=mend))
        return pd.DataFrame()
    text.columns = text.columns.str.strip().str.removeprefix("\ufeff")
    for name in text:
        stripped = text[name].str.strip()
        text[name] = stripped.mask(stripped.str.lower().isin(MISSING), "")
    return text


def _refuse_float_ids(frame: pd.DataFrame, path: Path, findings: Findings) -> None:
    for name in REQUIRED[:2]:
        if name in frame and pd.api.types.is_float_dtype(frame[name]):
            mend = "Write ids as text: as numbers they lose zeros and gain '.0'."
            findings.rejects.append(Fault(file=path.name, key=name, problem="ids are floating-point", mend=mend))


def _as_text(column: pd.Series) -> pd.Series:
    """A typed column as a CSV would hold it: 1 and 0 for booleans, ISO times, "" for missing."""
    if pd.api.types.is_bool_dtype(column):
        column = column.astype("Int8")
    return column.astype(str).where(column.notna(), "")


def require(frame: pd.DataFrame, wanted: Mapping[str, str], *, file: str, findings: Findings) -> None:
    """Reject missing columns, all at once. ``wanted``: column -> who needs it."""
    for column, why in wanted.items():
        if column not in frame:
            mend = nearest(column, map(str, frame.columns))
            findings.rejects.append(Fault(file=file, key=column, problem=f"column is missing ({why})", mend=mend))


def lines(mask: pd.Series) -> list[int]:
    """File lines of the rows where ``mask`` is true (the frame keeps its first index)."""
    return [int(i) + HEADER_LINES for i in mask.index[mask]]


def check_ids(frame: pd.DataFrame, *, file: str, findings: Findings) -> None:
    """Reject missing patient and sample ids and duplicate sample ids."""
    for name in REQUIRED[:2]:
        if (empty := frame[name] == "").any():
            rows = lines(empty)
            findings.reject_values(
                file=file,
                key=name,
                rows=rows,
                values=[""] * len(rows),
                problem="id is missing",
                mend="Give every row one.",
            )
    ids = frame["sample_id"]
    twice = ids.duplicated(keep="first") & (ids != "")
    findings.reject_values(
        file=file,
        key="sample_id",
        rows=lines(twice),
        values=ids[twice],
        problem="used in an earlier row too",
        mend="Sample ids must be unique: one row a sample.",
    )


def times(column: pd.Series, zone: ZoneInfo, *, findings: Findings) -> pd.Series:
    """ISO times -> UTC; naive ones are taken in the site's zone. Unreadable ones are NaT.

    Of an hour that the clock repeats in autumn, the first is meant; an hour that it skips in spring is moved on.
    """
    aware = column.str.contains(_AWARE, regex=True)
    utc = pd.to_datetime(column.where(aware), utc=True, format="ISO8601", errors="coerce")
    naive = pd.to_datetime(column.mask(aware), format="ISO8601", errors="coerce")
    local = naive.dt.tz_localize(zone, ambiguous=np.ones(len(naive), dtype=bool), nonexistent="shift_forward")
    if n := int(naive.notna().sum()):
        findings.repairs["index_time: naive, taken in the site's time zone"] += n
    return utc.fillna(local.dt.tz_convert("UTC"))


def numbers(column: pd.Series) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Text -> values (N,) float64 (NaN where missing or wrong), limited (N,), wrong (N,).

    ``<0.01`` and ``>100`` become the limit itself and are marked limited; ``wrong`` marks what is no number.
    """
    limited = column.str.match(r"[<>]=?")
    values = pd.to_numeric(column.str.replace(r"^[<>]=?\s*", "", regex=True), errors="coerce")
    values = values.where(np.isfinite(values))
    wrong = values.isna() & (column != "")
    return values.to_numpy(dtype=np.float64), (limited & ~wrong).to_numpy(), wrong.to_numpy()


def coded(column: pd.Series, codes: Mapping[str, float]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Codes -> numbers (N,) (NaN where missing or unknown), unknown (N,). ``1.0`` is the code ``1``."""
    bare = column.str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)
    values = np.asarray(column.map(codes).fillna(bare.map(codes)), dtype=np.float64)
    return values, np.isnan(values) & (column != "").to_numpy()
