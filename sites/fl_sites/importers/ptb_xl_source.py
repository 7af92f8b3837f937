"""Reads and checks a PTB-XL download: records, files, superclass labels."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from fl_shared.errors import Fault
from fl_sites.importers.imported import incomplete, listed, missing

SUPERCLASSES = ("NORM", "MI", "STTC", "CD", "HYP")
_DATABASE, _STATEMENTS = "ptbxl_database.csv", "scp_statements.csv"
_COLUMNS = {
    _DATABASE: (
        *("ecg_id", "patient_id", "age", "sex", "height", "weight", "site", "recording_date"),
        *("report", "scp_codes", "filename_lr"),
    ),
    _STATEMENTS: ("diagnostic", "diagnostic_class"),
}
_SIGNAL_BYTES = 12 * 1000 * 2  # 12 leads, 10 s at 100 Hz, 16 bit


def read_source(source: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """The records that can be used, and how many were left out, by reason.

    Records without a site are left out, and so are a patient's records at any but his first site: a patient at a
    training and at the external site would spoil the external result.

    Returns:
        The database's columns with ``patient_id`` and ``site`` as text of an integer and an integer, and 0/1 columns
        ``superclass_<name>``.

    Raises:
        ConsiliumError: (exit code 12) everything that is missing, at once.
    """
    mend = "Point --from at the folder that holds ptbxl_database.csv, or download this part again."
    if absent := missing(source, (*_COLUMNS, "records100"), mend=mend):
        raise incomplete(source, "PTB-XL", absent)
    tables = {name: _table(source / name) for name in _COLUMNS}
    if faults := [fault for name, table in tables.items() for fault in _column_faults(source, name, table)]:
        raise incomplete(source, "PTB-XL", faults)
    database, statements = tables[_DATABASE], tables[_STATEMENTS].set_index(tables[_STATEMENTS].columns[0])
    if faults := list(_signal_faults(source, database["filename_lr"])):
        raise incomplete(source, "PTB-XL", faults)
    records = database.join(_superclasses(database["scp_codes"], statements))
    records["patient_id"] = records["patient_id"].astype("int64").astype(str)  # 15709.0 in the file
    placed = records.dropna(subset=["site"]).astype({"site": "int64"}).sort_values("ecg_id")
    kept = placed[placed["site"] == placed.groupby("patient_id")["site"].transform("first")]
    return kept, {"no site": len(records) - len(placed), "patient at an earlier site": len(placed) - len(kept)}


def _table(path: Path) -> pd.DataFrame:
    """The table, or an empty one (whose columns are then missing) when the file is something else."""
    try:
        return pd.read_csv(path, encoding="utf-8")
    except ValueError:  # pandas' parser errors and wrong bytes
        return pd.DataFrame()


def _superclasses(codes: pd.Series[str], statements: pd.DataFrame) -> pd.DataFrame:
    """0/1 columns: a superclass is present when one of its diagnostic codes is, at any likelihood.

    The aggregation of the release's own ``example_physionet.py``.
    """
    classes = statements.loc[statements["diagnostic"] == 1, "diagnostic_class"].to_dict()
    found = [{classes[code] for code in ast.literal_eval(text) if code in classes} for text in codes]
    columns = {f"superclass_{name}": [int(name in record) for record in found] for name in SUPERCLASSES}
    return pd.DataFrame(columns, index=codes.index)


def _column_faults(source: Path, name: str, table: pd.DataFrame) -> Iterator[Fault]:
    mend = "Use the unmodified file of the PTB-XL release."
    for column in _COLUMNS[name]:
        if column not in table.columns:
            yield Fault(file=str(source / name), key=column, problem="column missing", mend=mend)
    if table.empty:
        yield Fault(file=str(source / name), key="rows", problem="no table, or an empty one", mend=mend)


def _signal_faults(source: Path, records: pd.Series[str]) -> Iterator[Fault]:
    """Signals that are named but absent, and those cut short, each as a count with the first few."""
    files = [source / f"{record}{suffix}" for record in records for suffix in (".hea", ".dat")]
    absent = [file for file in files if not file.is_file()]
    short = [file for file in files if file.suffix == ".dat" and file.is_file() and file.stat().st_size < _SIGNAL_BYTES]
    for problem, bad in (("missing", absent), (f"shorter than {_SIGNAL_BYTES} bytes", short)):
        if bad:
            yield Fault(
                file=str(source / "records100"),
                key=f"{len(bad)} of {len(files)} files",
                value=listed([file.relative_to(source) for file in bad]),
                problem=problem,
                mend="Download records100 again (its folder names are part of the paths).",
            )
