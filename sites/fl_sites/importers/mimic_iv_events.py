"""Laboratory results, bedside measurements and outputs -> ``events.parquet`` in MEDS columns.

The tables are streamed (the whole labevents has 118 million rows); what is kept goes to a spill file and from there,
some patients at a time, sorted into the sites' files: memory depends on neither.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pa_dataset
import pyarrow.parquet as pq

from fl_shared.commands import track
from fl_sites.importers.mimic_iv_codes import NO_UNIT, VITALS, code
from fl_sites.importers.mimic_iv_source import CHART, REQUIRED, Columns, Source, stream
from fl_sites.importers.mimic_iv_stays import REACH

BACK = pd.Timedelta(days=73_049)
"""The release shifts dates into 2100-2220, which a reader takes for the future: all times are written 200 years
earlier. One number of days for everything, so that no interval changes (month and day stay up to February 2200)."""
SCHEMA = pa.schema(
    {
        "subject_id": pa.int64(),
        "time": pa.timestamp("us"),
        "code": pa.string(),
        "numeric_value": pa.float32(),
        "text_value": pa.string(),
    }
)
_PATIENTS = 2000  # sorted at a time
_LIMIT = r"^\s*([<>]=?|LESS THAN|GREATER THAN)\s*(\d+(?:\.\d+)?)\s*(?:[.*]|$)"
_SIGNS = {"LESS THAN": "<", "GREATER THAN": ">"}


def write_events(source: Source, stays: pd.DataFrame, folders: Mapping[str, Path], *, scratch: Path) -> None:
    """Write ``events.parquet`` of every site, sorted by patient, time and code.

    A row is taken when it was measured within `REACH` before an index time of its patient. It is dropped when its
    result was stored only after an index time that it precedes: nobody knew it then.

    Args:
        source: the download.
        stays: the samples.
        folders: site -> its folder.
        scratch: where the spill file may lie for a while.

    Raises:
        ConsiliumError: (exit code 12) a table is cut short or damaged.
    """
    known = stays[["subject_id", "index_time"]]
    with tempfile.TemporaryDirectory(prefix=".events-", dir=scratch) as temporary:
        spill = Path(temporary) / "events.parquet"
        with pq.ParquetWriter(spill, SCHEMA) as writer:
            for path, prefix, columns in _tables(source):
                for block in track(stream(path, columns, subjects=set(known["subject_id"])), path.name):
                    if prefix == "CHART":
                        block = block.filter(pc.is_in(block["itemid"], value_set=pa.array(sorted(VITALS), pa.int64())))
                    frame = _within_reach(block.to_pandas(), known)
                    if len(frame):
                        writer.write_table(pa.Table.from_pandas(_meds(frame, prefix), SCHEMA, preserve_index=False))
        for site, folder in folders.items():
            _sort(
                spill, folder / "events.parquet", subjects=sorted(set(stays.loc[stays["site"] == site, "subject_id"]))
            )


def _tables(source: Source) -> Iterator[tuple[Path, str, Columns]]:
    for name, prefix in (("hosp/labevents.csv.gz", "LAB"), ("icu/outputevents.csv.gz", "OUTPUT")):
        yield source.root / name, prefix, REQUIRED[name]
    if source.chart is not None:
        yield source.chart, "CHART", CHART


def _within_reach(rows: pd.DataFrame, stays: pd.DataFrame) -> pd.DataFrame:
    """The rows that some stay may use and that no stay would know too early."""
    rows = rows.dropna(subset=["charttime"]).reset_index(drop=True)
    pairs = rows[["subject_id", "charttime", "storetime"]].reset_index(names="row").merge(stays, on="subject_id")
    before = pairs["charttime"] <= pairs["index_time"]
    near = before & (pairs["charttime"] > pairs["index_time"] - REACH)
    late = before & (pairs["storetime"] > pairs["index_time"])
    return rows.loc[sorted(set(pairs.loc[near, "row"]) - set(pairs.loc[late, "row"]))]


def _meds(rows: pd.DataFrame, prefix: str) -> pd.DataFrame:
    """MEDS columns of rows with a number or a word; a result beyond the assay's limit is the word ``<0.01``."""
    number = rows["value" if prefix == "OUTPUT" else "valuenum"]
    text = pd.Series(None, index=rows.index, dtype="object")
    if prefix == "LAB":
        # '<0.01' often stands in the comments only: a troponin below the limit would look as if never measured
        word = rows["value"].where(rows["value"].str.strip("_ ") != "")  # '___' stands for what was taken out
        limit = word.fillna(rows["comments"]).str.extract(_LIMIT)
        text = (limit[0].replace(_SIGNS) + limit[1]).fillna(word).where(number.isna())
    unit = rows["valueuom"].str.strip().replace("", None).fillna(NO_UNIT)
    names = {pair: code(prefix, *pair) for pair in zip(rows["itemid"], unit, strict=True)}
    meds = pd.DataFrame(
        {
            "subject_id": rows["subject_id"],
            "time": rows["charttime"] - BACK,
            "code": [names[pair] for pair in zip(rows["itemid"], unit, strict=True)],
            "numeric_value": number.astype(np.float32),
            "text_value": text,
        }
    )
    return meds[meds["numeric_value"].notna() | meds["text_value"].notna()]


def _sort(spill: Path, path: Path, *, subjects: Sequence[int]) -> None:
    rows: Any = pa_dataset.dataset(spill)
    keys = [(name, "ascending") for name in SCHEMA.names]  # all columns: the order of equal rows is then fixed too
    with pq.ParquetWriter(path, SCHEMA) as writer:
        for start in range(0, len(subjects), _PATIENTS):
            some = pc.field("subject_id").isin(list(subjects[start : start + _PATIENTS]))
            writer.write_table(rows.to_table(filter=some).sort_by(keys))
