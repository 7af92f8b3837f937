"""Long tables (parquet or CSV) batch by batch: only the wanted columns, codes and patients are ever in memory."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from fl_client.data.findings import Findings
from fl_shared.errors import Fault
from fl_shared.site import Site

BATCH = 2**13  # rows of parquet
UNREADABLE = (pa.ArrowException, OSError, ValueError, LookupError, MemoryError)  # what damaged files make Arrow raise


@dataclass(kw_only=True)
class LongTable:
    """A table with many rows a patient. ``seen`` rows had a wanted code, ``matched`` of them a known patient."""

    files: tuple[Path, ...]
    columns: Mapping[str, pa.DataType]
    file: str
    subject: str
    encoding: str
    findings: Findings
    seen: int = field(default=0, init=False)
    matched: int = field(default=0, init=False)

    @classmethod
    def open(cls, path: Path, *, site: Site, subject: str, findings: Findings) -> LongTable | None:
        """A parquet or CSV file, or a folder of parquet files; None, with a reject, when it cannot be read.

        CSV cells stay text, as they were written.
        """
        try:
            files = tuple(sorted(path.rglob("*.parquet"))) if path.is_dir() else (path,)
            if _is_csv(path):
                columns = dict.fromkeys(_open_csv(path, site.encoding, ()).schema.names, pa.string())
            else:
                schema = pq.read_schema(files[0])
                columns = {name: _plain(schema.field(name).type) for name in schema.names}
        except UNREADABLE as error:
            _unreadable(path.name, error, findings)
            return None
        return cls(
            files=files, columns=columns, file=path.name, subject=subject, encoding=site.encoding, findings=findings
        )

    def check(self, *, time: str) -> bool:
        """Whether ids and times have a usable type; rejects otherwise."""
        before = len(self.findings.rejects)
        ids, kind = self.columns[self.subject], self.columns[time]
        if pa.types.is_floating(ids) or pa.types.is_decimal(ids):
            problem, mend = "ids are floating-point", "Write ids as text: as numbers they lose zeros and gain '.0'."
            self.findings.rejects.append(Fault(file=self.file, key=self.subject, problem=problem, mend=mend))
        if not (pa.types.is_timestamp(kind) or pa.types.is_date(kind) or _is_text(kind)):
            problem, mend = "not a time", "Write timestamps, or text such as '2024-03-01 08:30'."
            self.findings.rejects.append(Fault(file=self.file, key=time, value=str(kind), problem=problem, mend=mend))
        return len(self.findings.rejects) == before

    def rows(
        self,
        columns: Mapping[str, pa.DataType | None],
        *,
        patients: pd.Index,
        only: tuple[str, Collection[str]] | None = None,
    ) -> Iterator[tuple[NDArray[np.int64], pd.DataFrame]]:
        """Batches of rows of known patients: their numbers (R,) in ``patients``, and the columns.

        Args:
            columns: name -> type to which it is cast; as stored when None.
            patients: ids, compared as text: the integer 123 is the patient '123', and not '00123'.
            only: a column and its wanted values (as text); rows with others are not read.
        """
        wanted = {**columns, self.subject: pa.string()}
        codes = None if only is None else pa.array(sorted(only[1]), type=pa.string())
        try:
            for batch in self._batches(list(wanted)):
                batch.validate(full=True)  # text that is no UTF-8 would fail later, in any place
                if only is not None:
                    batch = batch.filter(pc.is_in(batch.column(only[0]).cast(pa.string()), value_set=codes))
                ids = pc.utf8_trim_whitespace(batch.column(self.subject).cast(pa.string())).to_pandas()
                patient = patients.get_indexer(pd.Index(ids.fillna("")))
                known = patient >= 0
                self.seen += len(known)
                self.matched += int(known.sum())
                if known.any():
                    kept = batch.filter(pa.array(known))
                    cells = {name: _cast(kept.column(name), to) for name, to in wanted.items()}
                    yield patient[known], pa.table(cells).to_pandas(date_as_object=False)
        except UNREADABLE as error:
            _unreadable(self.file, error, self.findings)

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        for file in self.files:
            if _is_csv(file):
                yield from _open_csv(file, self.encoding, columns)
                continue
            # pre-buffered columns would stay in memory until the whole file is read
            with pq.ParquetFile(file, pre_buffer=False, buffer_size=2**20, page_checksum_verification=True) as source:
                yield from source.iter_batches(batch_size=BATCH, columns=columns)

    def check_matched(self) -> None:
        """Reject ids of which none belongs to a patient: they are written in another way than in the samples table."""
        if self.seen and not self.matched and not self.findings.part:
            problem, mend = "no id is a patient_id of the samples table", "Write ids alike in both, zeros included."
            self.findings.rejects.append(Fault(file=self.file, key=self.subject, problem=problem, mend=mend))


def _is_csv(path: Path) -> bool:
    return ".csv" in path.suffixes


def _open_csv(path: Path, encoding: str, columns: Sequence[str]) -> pyarrow.csv.CSVStreamingReader:
    return pyarrow.csv.open_csv(
        path,
        read_options=pyarrow.csv.ReadOptions(encoding=encoding, block_size=2**20),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()), include_columns=columns, strings_can_be_null=False
        ),
    )


def _plain(kind: pa.DataType) -> pa.DataType:
    """Of categories, the type that they are of."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _cast(column: pa.Array, to: pa.DataType | None) -> pa.Array:
    return column.cast(_plain(column.type) if to is None else to)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _unreadable(file: str, error: BaseException, findings: Findings) -> None:
    """Arrow's own words are left out: they quote the row."""
    row = re.search(r"Row #(\d+)", str(error))
    wrong_bytes = isinstance(error, UnicodeError) or "invalid UTF8" in str(error)
    problem = "not in the declared encoding" if wrong_bytes else "cannot be read"
    mend = "Write a parquet file, or CSV in the encoding that site.toml declares."
    findings.rejects.append(
        Fault(
            file=file,
            key="(file)",
            value=type(error).__name__,
            problem=problem,
            mend=mend,
            row=int(row.group(1)) if row else None,
        )
    )
