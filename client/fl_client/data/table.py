"""Read the samples table as text, so that no reader guesses: ids, times, numbers with ``<x``, codes."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fl_client.data.findings import MISSING, Findings
from fl_shared.errors import Fault, nearest

REQUIRED = ("patient_id", "sample_id", "index_time")
HEADER_LINES = 2  # the first data row is line 2 of the file
_LIMIT = r"(?:[<>]=?|[≤≥＜＞])"
_DATE = r"(?:1[89]|2\d)\d\d-?\d\d-?\d\d"  # whole, from 1800 to 2999: pandas takes "2020" and the year -2020 too
_ZONE = r"(?:[zZ]|[+-]\d\d(?::?\d\d)?)"
_TIME = rf"{_DATE}(?:[T ]\d\d(?::?\d\d(?::?\d\d(?:\.\d+)?)?)?(?: ?{_ZONE})?)?"
_AWARE = rf"[T ]\d\d.*{_ZONE}$"


def read_samples(path: Path, *, encoding: str, findings: Findings) -> pd.DataFrame:
    """All columns as stripped text; every way of writing "missing" becomes ``""``.

    Ids such as ``00123`` or ``1e5`` stay as written. A file that cannot be read is a reject and gives an empty table.
    """
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            table.validate(full=True)
            frame = table.to_pandas(ignore_metadata=True)  # a plain table, whatever pandas wrote beside it
            _refuse_float_ids(frame, path, findings)
            text = pd.DataFrame({str(name): _as_text(frame[name]) for name in frame})
        else:
            text = _read_csv(path, encoding, findings)
    except UnicodeDecodeError:
        problem, mend = f"not {encoding}", "Declare the true encoding in site.toml, e.g. encoding = 'gb18030'."
        findings.rejects.append(Fault(file=path.name, key="encoding", value=encoding, problem=problem, mend=mend))
        return pd.DataFrame()
    except (ValueError, OSError, pa.ArrowException) as error:
        mend = "Write a plain .csv or .parquet table, one row a sample."
        value = f"{type(error).__name__}: {str(error).strip()[:120]}"
        findings.rejects.append(Fault(file=path.name, key="(file)", value=value, problem="cannot be read", mend=mend))
        return pd.DataFrame()
    text.columns = text.columns.str.strip().str.removeprefix("\ufeff")
    if (twice := text.columns[text.columns.duplicated()].unique()).size:
        findings.reject_values(
            file=path.name,
            key="(columns)",
            rows=[1] * len(twice),
            values=map(str, twice),
            problem="column appears twice",
            mend="Remove or rename one of them.",
        )
        return pd.DataFrame()
    for name in text:
        stripped = text[name].str.strip()
        text[name] = stripped.mask(stripped.str.lower().isin(MISSING), "")
    return text


def _read_csv(path: Path, encoding: str, findings: Findings) -> pd.DataFrame:
    """A CSV table whose index is the line of every row less `HEADER_LINES`; blank lines are left out.

    Rows with more or fewer fields than the header are rejects: pandas would take the first column of the former for
    an index, which moves every value to its neighbour's column, and would fill up the latter.
    """
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            numbered = [(reader.line_num, row) for row in reader if any(field.strip() for field in row)]
        except csv.Error as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error
    if not numbered:
        raise ValueError("the file is empty")
    (_, header), *rows = numbered
    ragged = [(line, len(row)) for line, row in rows if len(row) != len(header)]
    findings.reject_values(
        file=path.name,
        key="(fields)",
        rows=[line for line, _ in ragged],
        values=[str(width) for _, width in ragged],
        problem=f"the header has {len(header)} fields",
        mend="Give every row as many; put a value that holds a comma (0,9) in quotes.",
    )
    if ragged:
        return pd.DataFrame(columns=pd.Index([], dtype=str))
    index = [line - HEADER_LINES for line, _ in rows]
    return pd.DataFrame([row for _, row in rows], columns=header, index=index, dtype=str)


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
    """Reject missing and damaged patient and sample ids and duplicate sample ids."""
    for name in REQUIRED[:2]:
        odd = frame[name].str.contains(r"[\x00-\x1f\x7f]", regex=True)  # numpy drops trailing NULs: ids would merge
        for mask, problem, mend in (
            (frame[name] == "", "id is missing", "Give every row one."),
            (odd, "holds control characters", "The file is damaged, or the id is no id."),
        ):
            values = frame.loc[mask, name]
            findings.reject_values(file=file, key=name, rows=lines(mask), values=values, problem=problem, mend=mend)
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


def check_splits(frame: pd.DataFrame, *, file: str, findings: Findings) -> None:
    """Reject patients whose samples stand in two splits (optional column ``split``): they would train and judge."""
    if "split" not in frame:
        return
    named = frame.loc[(frame["split"] != "") & (frame["patient_id"] != ""), ["patient_id", "split"]]
    first = named.groupby("patient_id")["split"].transform("first")
    other = named["split"] != first
    findings.reject_values(
        file=file,
        key="patient_id",
        rows=lines(other),
        values=named.loc[other, "patient_id"],
        problem="stands in another split in an earlier row",
        mend="Keep all samples of a patient in one split.",
    )


def times(column: pd.Series, zone: ZoneInfo, *, findings: Findings) -> pd.Series:
    """ISO times with a whole date -> UTC; naive ones are taken in the site's zone. Unreadable ones are NaT.

    Of an hour that the clock repeats in autumn, the first is meant; an hour that it skips in spring is moved on.
    """
    column = column.where(column.str.fullmatch(_TIME), "")
    aware = column.str.contains(_AWARE, regex=True)
    utc = pd.to_datetime(column.where(aware), utc=True, format="ISO8601", errors="coerce")
    naive = pd.to_datetime(column.mask(aware), format="ISO8601", errors="coerce")
    local = naive.dt.tz_localize(zone, ambiguous=np.ones(len(naive), dtype=bool), nonexistent="shift_forward")
    if n := int(naive.notna().sum()):
        findings.repairs["index_time: naive, taken in the site's time zone"] += n
    # one unit: text of whole seconds and text of microseconds are parsed to different ones
    return utc.dt.as_unit("us").fillna(local.dt.tz_convert("UTC").dt.as_unit("us"))


def numbers(column: pd.Series) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Text -> values (N,) float64 (NaN where missing or wrong), limited (N,), wrong (N,).

    ``<0.01`` and ``>100`` become the limit itself and are marked limited; ``wrong`` marks what is no number.
    """
    limited = column.str.match(_LIMIT)
    values = pd.to_numeric(column.str.replace(rf"^{_LIMIT}\s*", "", regex=True), errors="coerce")
    values = values.where(np.isfinite(values))
    wrong = values.isna() & (column != "")
    return values.to_numpy(dtype=np.float64), (limited & ~wrong).to_numpy(), wrong.to_numpy()


def coded(column: pd.Series, codes: Mapping[str, float]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Codes -> numbers (N,) (NaN where missing or unknown), unknown (N,). ``1.0`` is the code ``1``."""
    bare = column.str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)
    values = np.asarray(column.map(codes).fillna(bare.map(codes)), dtype=np.float64)
    return values, np.isnan(values) & (column != "").to_numpy()
