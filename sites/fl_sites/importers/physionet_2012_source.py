"""Reads and checks a PhysioNet/CinC Challenge 2012 download: series, descriptors, outcomes.

A stay is a text file of rows ``Time,Parameter,Value`` with the hours and minutes since admission to the ICU. All
files are joined and parsed at once.
"""

from __future__ import annotations

import csv
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from fl_shared.errors import Fault
from fl_sites.importers.imported import incomplete, listed, missing

ARCHIVE, FOLDER, OUTCOMES = "set-a.tar.gz", "set-a", "Outcomes-a.txt"
DESCRIPTORS = ("RecordID", "Age", "Gender", "Height", "ICUType", "Weight")
"""Told once a stay, at 00:00; only the weight is also measured later."""
VARIABLES = (
    *("Albumin", "ALP", "ALT", "AST", "Bilirubin", "BUN", "Cholesterol", "Creatinine", "DiasABP", "FiO2", "GCS"),
    *("Glucose", "HCO3", "HCT", "HR", "K", "Lactate", "Mg", "MAP", "MechVent", "Na", "NIDiasABP", "NIMAP"),
    *("NISysABP", "PaCO2", "PaO2", "pH", "Platelets", "RespRate", "SaO2", "SysABP", "Temp", "TroponinI"),
    *("TroponinT", "Urine", "WBC", "Weight"),
)
UNKNOWN = -1
_OUTCOME_COLUMNS = ("RecordID", "Length_of_stay", "Survival", "In-hospital_death")
_HEADER = b"Time,Parameter,Value"
_WHAT = "PhysioNet 2012"
_MEND = "Use the unmodified files of the release."


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the release holds; -1 (unknown) is NaN in ``stays`` and absent from ``series``.

    stays: one row a stay (index RecordID), columns of `DESCRIPTORS` and of the outcomes;
    series: RecordID, minutes (since admission), Parameter (categorical), Value.
    """

    stays: pd.DataFrame
    series: pd.DataFrame


def read_source(source: Path) -> Source:
    """Read a folder with ``Outcomes-a.txt`` and ``set-a.tar.gz`` (or the unpacked ``set-a``).

    Raises:
        ConsiliumError: (exit code 12) everything that is wrong or missing, at once.
    """
    packed = not (source / FOLDER).is_dir()
    mend = "Point --from at the folder that holds Outcomes-a.txt, or download this part again."
    if faults := missing(source, (ARCHIVE if packed else FOLDER, OUTCOMES), mend=mend):
        raise incomplete(source, _WHAT, faults)
    place = source / (ARCHIVE if packed else FOLDER)
    outcomes, faults = _outcomes(source / OUTCOMES)
    rows, more = _rows(place, packed=packed)
    faults += more
    if not more:
        faults += list(_row_faults(place, rows))
    if faults:
        raise incomplete(source, _WHAT, faults)
    # the first weight at 00:00 is the descriptor, a second one would be measured
    told = rows["Parameter"].isin(DESCRIPTORS) & (rows["minutes"] == 0)
    told &= ~rows[["RecordID", "Parameter"]].where(told).duplicated()
    descriptors = rows[told].pivot(index="RecordID", columns="Parameter", values="Value")
    if faults := list(_stay_faults(place, descriptors, rows[~told], outcomes)):
        raise incomplete(source, _WHAT, faults)
    stays = descriptors.astype("float64").drop(columns="RecordID").join(outcomes)
    series = rows[~told & (rows["Value"] != UNKNOWN)]
    return Source(stays=stays.mask(stays == UNKNOWN), series=series[["RecordID", "minutes", "Parameter", "Value"]])


def _outcomes(path: Path) -> tuple[pd.DataFrame, list[Fault]]:
    try:
        table = pd.read_csv(path, encoding="utf-8")
    except ValueError:  # pandas' parser errors and wrong bytes
        table = pd.DataFrame()
    absent = [name for name in _OUTCOME_COLUMNS if name not in table]
    faults = [Fault(file=str(path), key=name, problem="column missing", mend=_MEND) for name in absent]
    if not faults:
        table = table[list(_OUTCOME_COLUMNS)]
        for name in table:
            if not pd.api.types.is_integer_dtype(table[name]):
                faults.append(Fault(file=str(path), key=str(name), problem="not whole numbers", mend=_MEND))
    return (table.set_index("RecordID"), []) if not faults else (table, faults)


def _files(place: Path, *, packed: bool) -> Iterator[tuple[str, bytes]]:
    """Name and content of every text file of the set."""
    if packed:
        with tarfile.open(place, "r:gz") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".txt"):
                    opened = archive.extractfile(member)
                    yield PurePosixPath(member.name).name, opened.read() if opened else b""
    else:
        for path in sorted(place.glob("*.txt")):
            yield path.name, path.read_bytes()


def _rows(place: Path, *, packed: bool) -> tuple[pd.DataFrame, list[Fault]]:
    """RecordID (of the file's name), line, minutes, Parameter, Value, extra: NaN (-1 for minutes) where unreadable."""
    ids, counts, bodies, foreign = [], [], [], []
    try:
        for name, content in _files(place, packed=packed):
            head, _, body = content.replace(b"\r\n", b"\n").rstrip(b"\n").partition(b"\n")
            if head != _HEADER or not body or not name.removesuffix(".txt").isdigit():
                foreign.append(name)
                continue
            ids.append(int(name.removesuffix(".txt")))
            counts.append(body.count(b"\n") + 1)
            bodies.append(body)
        if foreign or not ids:
            problem = "not a record of the set" if foreign else "holds no records"
            return pd.DataFrame(), [Fault(file=str(place), key=listed(foreign) or "*.txt", problem=problem, mend=_MEND)]
        rows = _parse(b"\n".join(bodies))
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:  # pandas' are ValueErrors
        value = f"{type(error).__name__}: {error}"[:120]
        return pd.DataFrame(), [Fault(file=str(place), key="(file)", value=value, problem="cannot be read", mend=_MEND)]
    rows["RecordID"] = np.repeat(ids, counts)
    rows["line"] = np.concatenate([np.arange(2, count + 2) for count in counts])
    return rows, []


def _parse(body: bytes) -> pd.DataFrame:
    """Times come as few different words: each is parsed once."""
    names = ["Time", "Parameter", "Value", "extra"]
    dtypes = {"Time": "category", "Parameter": "category", "Value": "str", "extra": "str"}
    rows = pd.read_csv(
        io.BytesIO(body),
        names=names,
        dtype=dtypes,
        index_col=False,
        skip_blank_lines=False,
        quoting=csv.QUOTE_NONE,
        encoding="utf-8",
    )
    rows["Value"] = pd.to_numeric(rows["Value"], errors="coerce")
    words = rows["Time"].cat.categories
    parts = words.to_series().str.extract(r"^(\d\d):([0-5]\d)$").astype("float64")
    minutes = (parts[0] * 60 + parts[1]).fillna(-1).to_numpy(dtype=np.int64)
    codes = rows["Time"].cat.codes.to_numpy()
    rows["minutes"] = np.where(codes >= 0, minutes[codes], -1) if len(words) else -1
    return rows


def _row_faults(place: Path, rows: pd.DataFrame) -> Iterator[Fault]:
    """Rows that no record of the release has, each sort once, at its first place."""
    known = {*DESCRIPTORS, *VARIABLES}
    once = rows["Parameter"].isin(set(DESCRIPTORS) - {"Weight"})
    for problem, wrong in (
        ("not three values", rows["extra"].notna()),
        ("no time of the form hh:mm", rows["minutes"] < 0),
        ("unknown parameter", ~rows["Parameter"].isin(known)),
        ("not a number", ~np.isfinite(rows["Value"])),
        ("a descriptor after 00:00", once & (rows["minutes"] > 0)),
        ("RecordID is not the file's name", (rows["Parameter"] == "RecordID") & (rows["Value"] != rows["RecordID"])),
    ):
        if wrong.any():
            first = rows[wrong].iloc[0]
            file, more = f"{place}: {first['RecordID']}.txt", f" (and {int(wrong.sum()) - 1} more rows)"
            key = str(first["Parameter"])
            yield Fault(file=file, row=int(first["line"]), key=key, problem=problem + more, mend=_MEND)


def _stay_faults(
    place: Path, descriptors: pd.DataFrame, series: pd.DataFrame, outcomes: pd.DataFrame
) -> Iterator[Fault]:
    """Stays and outcomes belong together, and every stay tells its descriptors once."""
    for name in DESCRIPTORS:
        without = descriptors.index[descriptors[name].isna()] if name in descriptors else descriptors.index
        if len(without):
            yield Fault(file=str(place), key=name, value=listed(list(without)), problem="not told", mend=_MEND)
    again = series.loc[series["Parameter"].isin(set(DESCRIPTORS) - {"Weight"}), "RecordID"].unique()
    if len(again):
        yield Fault(file=str(place), key="descriptors", value=listed(list(again)), problem="told twice", mend=_MEND)
    for file, here, there in (
        (place, outcomes.index, descriptors.index),
        (OUTCOMES, descriptors.index, outcomes.index),
    ):
        if len(absent := here.difference(there)):
            problem = f"{len(absent)} of {len(here)} stays missing"
            yield Fault(file=str(file), key="RecordID", value=listed(list(absent)), problem=problem, mend=_MEND)
    if outcomes.index.has_duplicates:
        yield Fault(file=OUTCOMES, key="RecordID", problem="stays told twice", mend=_MEND)
