"""Finds and checks the parts of a MIMIC-IV download, and streams its tables: no large one is ever held whole."""

from __future__ import annotations

import csv
import gzip
import textwrap
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as pa_csv

from fl_shared.errors import Fault
from fl_sites.importers.imported import incomplete

NAME = "MIMIC-IV"
_ID, _TIME, _NUMBER, _TEXT = pa.int64(), pa.timestamp("us"), pa.float64(), pa.string()
Columns = Mapping[str, Any]
"""Column -> Arrow type."""

REQUIRED: Mapping[str, Columns] = {
    "hosp/patients.csv.gz": {
        **{"subject_id": _ID, "gender": _TEXT, "anchor_age": _ID, "anchor_year": _ID},
        **{"anchor_year_group": _TEXT, "dod": _TIME},
    },
    "hosp/admissions.csv.gz": {
        **{"subject_id": _ID, "hadm_id": _ID, "admittime": _TIME, "dischtime": _TIME, "deathtime": _TIME},
        "hospital_expire_flag": _ID,
    },
    "hosp/diagnoses_icd.csv.gz": {
        **{"subject_id": _ID, "hadm_id": _ID, "seq_num": _ID, "icd_code": _TEXT, "icd_version": _ID}
    },
    "hosp/omr.csv.gz": {
        **{"subject_id": _ID, "chartdate": _TIME, "seq_num": _ID, "result_name": _TEXT, "result_value": _TEXT},
    },
    "hosp/labevents.csv.gz": {
        **{"subject_id": _ID, "itemid": _ID, "charttime": _TIME, "storetime": _TIME, "value": _TEXT},
        **{"valuenum": _NUMBER, "valueuom": _TEXT, "comments": _TEXT},
    },
    "hosp/prescriptions.csv.gz": {
        **{"subject_id": _ID, "hadm_id": _ID, "starttime": _TIME, "drug_type": _TEXT, "drug": _TEXT},
        **{"dose_val_rx": _TEXT, "dose_unit_rx": _TEXT, "doses_per_24_hrs": _NUMBER, "route": _TEXT},
    },
    "icu/icustays.csv.gz": {
        **{"subject_id": _ID, "hadm_id": _ID, "stay_id": _ID, "first_careunit": _TEXT},
        **{"intime": _TIME, "outtime": _TIME},
    },
    "icu/outputevents.csv.gz": {
        **{"subject_id": _ID, "itemid": _ID, "charttime": _TIME, "storetime": _TIME, "value": _NUMBER},
        "valueuom": _TEXT,
    },
}
CHART: Columns = {
    **{"subject_id": _ID, "itemid": _ID, "charttime": _TIME, "storetime": _TIME, "valuenum": _NUMBER},
    "valueuom": _TEXT,
}
NOTES: Columns = {"subject_id": _ID, "hadm_id": _ID, "charttime": _TIME, "storetime": _TIME, "text": _TEXT}
ECG: Columns = {"subject_id": _ID, "study_id": _ID, "ecg_time": _TIME, "path": _TEXT}
_BLOCK = 4 * 1024**2  # bytes of text parsed at a time: some ten times that are held; a row must fit


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the parts of a download are; None for a part that is not there."""

    root: Path
    chart: Path | None
    ecg: Path | None
    radiology: Path | None
    discharge: Path | None

    @property
    def said(self) -> str:
        """What was found beside the tables, and what was not, in lines of a comment."""
        parts = {
            "bedside measurements (icu/chartevents.csv.gz)": self.chart,
            "MIMIC-IV-ECG (record_list.csv)": self.ecg,
            "radiology reports (MIMIC-IV-Note, radiology.csv.gz)": self.radiology,
            "discharge summaries (MIMIC-IV-Note, discharge.csv.gz)": self.discharge,
        }
        found = [name for name, path in parts.items() if path is not None]
        absent = [name for name, path in parts.items() if path is None]
        said = f"Found beside the tables: {'; '.join(found) or 'nothing'}. Not found: {'; '.join(absent) or 'nothing'}."
        return textwrap.fill(said, width=118)


def find_source(root: Path) -> Source:
    """The parts of the download at ``root``: MIMIC-IV-ECG and MIMIC-IV-Note may lie inside it or beside it.

    Raises:
        ConsiliumError: (exit code 12) everything that is missing, no gzip file or without its columns, at once.
    """
    chart = root / "icu" / "chartevents.csv.gz"
    source = Source(
        root=root,
        chart=chart if chart.is_file() else None,
        ecg=_nearby(root, "mimic-iv-ecg*", "record_list.csv"),
        radiology=_nearby(root, "mimic-iv-note*", "radiology.csv.gz"),
        discharge=_nearby(root, "mimic-iv-note*", "discharge.csv.gz"),
    )
    wanted = {root / name: columns for name, columns in REQUIRED.items()}
    for path, columns in (
        (source.chart, CHART),
        (source.ecg, ECG),
        (source.radiology, NOTES),
        (source.discharge, NOTES),
    ):
        if path is not None:
            wanted[path] = columns
    if faults := [fault for path, columns in wanted.items() for fault in _faults(root, path, columns)]:
        raise incomplete(root, NAME, faults)
    return source


def stream(path: Path, columns: Columns, *, subjects: Iterable[int] | None = None) -> Iterator[Any]:
    """Blocks of a table (`pyarrow.Table`) with these columns, in the file's order; empty cells are null.

    Args:
        path: a ``.csv`` or ``.csv.gz`` file.
        columns: what to read.
        subjects: only rows of these patients (all when None); blocks without any are left out.

    Raises:
        ConsiliumError: (exit code 12) the file is cut short, damaged, or has a value of another type.
    """
    wanted = None if subjects is None else pa.array(sorted(subjects), _ID)
    try:
        reader = pa_csv.open_csv(
            path,
            read_options=pa_csv.ReadOptions(block_size=_BLOCK, use_threads=False),
            parse_options=pa_csv.ParseOptions(newlines_in_values=True),
            convert_options=pa_csv.ConvertOptions(
                include_columns=list(columns), column_types=dict(columns), strings_can_be_null=True, null_values=[""]
            ),
        )
        for batch in reader:
            table = pa.Table.from_batches([batch])
            if wanted is not None:
                table = table.filter(pc.is_in(table["subject_id"], value_set=wanted))
            if table.num_rows:
                yield table
    except (OSError, pa.ArrowInvalid) as error:
        mend = "Download this file again and do not change it (the release's SHA256SUMS.txt has its digest)."
        problem = f"cut short or damaged ({str(error).strip().splitlines()[0][:160]})"
        fault = Fault(file=str(path), key="rows", problem=problem, mend=mend)
        raise incomplete(path.parent, NAME, [fault]) from error


def read(path: Path, columns: Columns, *, subjects: Iterable[int] | None = None) -> pd.DataFrame:
    """As `stream`, but whole: for tables of patients and stays, and for the rows of few patients."""
    schema = pa.schema(list(columns.items()))
    blocks = [block.select(list(columns)) for block in stream(path, columns, subjects=subjects)]
    frame: pd.DataFrame = pa.concat_tables([schema.empty_table(), *blocks]).to_pandas()
    return frame


def _nearby(root: Path, folder: str, file: str) -> Path | None:
    """The file inside ``root``, or in such a folder beside it or beside its parent (``mimiciv/3.1``): the newest."""
    patterns = [(root, ("", "*/", "*/*/"))]
    patterns += [(base, (f"{folder}/", f"{folder}/*/", f"{folder}/*/*/")) for base in (root.parent, root.parent.parent)]
    for base, depths in patterns:
        if found := sorted(path for depth in depths for path in base.glob(depth + file)):
            return found[-1]
    return None


def _faults(root: Path, path: Path, columns: Columns) -> Iterator[Fault]:
    """What is wrong with a file, as far as its first line tells."""
    name = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    if not path.is_file():
        mend = "Point --from at the folder of MIMIC-IV 2.0 or later that holds hosp/ and icu/, or download this file."
        yield Fault(file=str(root), key=name, problem="missing", mend=mend)
        return
    mend = "Use the unmodified file of the release."
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as lines:
            header = next(csv.reader([lines.readline().decode("utf-8")]), [])
    except (OSError, EOFError, zlib.error, UnicodeDecodeError):
        yield Fault(file=str(root), key=name, problem="no such table (not gzip, or cut short)", mend=mend)
        return
    for column in columns:
        if column not in header:
            yield Fault(file=str(root), key=f"{name}: {column}", problem="column missing", mend=mend)
