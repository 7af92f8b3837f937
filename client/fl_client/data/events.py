"""Irregular measurements in MEDS columns -> a grid of bins before the index time.

The window of a sample is (index - gap - hours, index - gap] in elapsed hours, cut into equal bins; bin k holds
(start + k w, start + (k + 1) w]. An event at the index time itself is kept when the gap is 0; nothing later enters.
A bin's value is the mean on the concept's scale (of the logarithm, where the concept has one).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from fl_client.data import arrays as large
from fl_client.data.findings import Findings
from fl_client.data.measurements import NUMBER, TEXT, Measurements
from fl_client.data.moments import Moments, utc
from fl_client.data.scan import LongTable
from fl_client.data.table import require
from fl_shared.concepts import concept, names
from fl_shared.errors import Fault, nearest
from fl_shared.site import ColumnMap, EventTable, Site
from fl_shared.study import ModalityPlan

HOUR = 3_600_000_000  # microseconds
UNIT = 2.0**-32  # scaled values are summed as integers of this size: exactly, so the order of rows cannot matter
BLOCK = 1024  # samples turned into means at a time

Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Events:
    """values (N, bins, fields) float32 scaled by the concepts, 0 where none; observed (N, bins, fields) bool."""

    values: NDArray[np.float32]
    observed: NDArray[np.bool_]


def read_events(
    frame: pd.DataFrame, *, site: Site, plan: ModalityPlan, mapped: EventTable, name: str, findings: Findings
) -> Events:
    """The study's fields of every row of ``frame``, in its order.

    Unknown concepts, units and words, and files that cannot be read, are rejects. Implausible values are set missing
    and counted with the unit that would make them plausible, as in `ehr.read_table`.

    Args:
        frame: samples with ``patient_id`` and ``index_time`` as text.
        site: time zone of naive times, encoding of CSV, folder of large arrays.
        plan: ``fields``, ``hours``, ``gap_hours``, ``bins``.
        mapped: the file, and its codes; several may hold one concept, each in its own unit.
        name: of the modality.
        findings: where faults and counts are told.
    """
    chosen = _codes_of(mapped, plan, name, rows=len(frame), findings=findings)
    grid = _Grid.empty((len(frame), plan.bins, len(plan.fields)), folder=site.cache_dir)
    table = LongTable.open(site.folder / mapped.file, site=site, subject="subject_id", findings=findings)
    if table is None or not chosen or frame.empty or not _fits(table, findings=findings):
        return grid.means()
    moments = Moments.of(frame, site.zone)
    measured = Measurements(codes=chosen, name=name, findings=findings)
    unused = set(chosen)
    for patient, rows in table.rows(_columns(table), patients=moments.patients, only=("code", chosen)):
        unused -= set(rows["code"].unique())
        stamps, known = utc(rows["time"], site.zone, name=name, findings=findings)
        row, sample, bins = _place(patient, stamps, known, moments, plan, name=name, findings=findings)
        used, back = np.unique(row, return_inverse=True)
        values, held = measured.scaled(rows.iloc[used])
        number = held.map({wanted: f for f, wanted in enumerate(plan.fields)})
        grid.add(sample, bins, number.to_numpy(dtype=np.int64)[back].astype(np.int64), values[back])
    table.check_matched()
    measured.tell()
    for code in sorted(unused):
        findings.repairs[f"{name}: code '{code}' occurs for no patient"] += 1
    return grid.means()


def _codes_of(
    mapped: EventTable, plan: ModalityPlan, name: str, *, rows: int, findings: Findings
) -> dict[str, ColumnMap]:
    """The codes of the study's fields; none when a concept or unit is unknown, which is a reject."""
    faults = []
    for code, held in mapped.codes.items():
        key = f"modalities.{name}.codes.{code}"
        if held.concept not in names():
            mend = nearest(held.concept, names())
            faults.append(Fault(file="site.toml", key=key, value=held.concept, problem="unknown concept", mend=mend))
        elif held.unit is not None and held.unit not in (known := concept(held.concept).known_units):
            mend = f"Known for {held.concept}: {', '.join(known)} (UCUM)."
            key = f"{key}.unit"
            faults.append(Fault(file="site.toml", key=key, value=held.unit, problem="unknown unit", mend=mend))
    findings.rejects.extend(faults)
    chosen = {code: held for code, held in mapped.codes.items() if held.concept in plan.fields}
    for wanted in sorted(set(plan.fields) - {held.concept for held in chosen.values()}):
        findings.repairs[f"{name}: {wanted} not mapped at this site, nowhere observed"] += rows
    return {} if faults else chosen


def _fits(table: LongTable, *, findings: Findings) -> bool:
    """Whether the file has MEDS columns of usable types; rejects otherwise."""
    head = pd.DataFrame(columns=list(table.columns))
    wanted = dict.fromkeys(("subject_id", "time", "code"), "MEDS")
    if not {NUMBER, TEXT} & set(head.columns):
        wanted[NUMBER] = "MEDS"
    require(head, wanted, file=table.file, findings=findings)
    return all(column in head for column in wanted) and table.check(time="time")


def _columns(table: LongTable) -> dict[str, pa.DataType | None]:
    columns: dict[str, pa.DataType | None] = {"time": None, "code": pa.string()}
    if NUMBER in table.columns:
        columns[NUMBER] = pa.float64() if pa.types.is_primitive(table.columns[NUMBER]) else pa.string()
    if TEXT in table.columns:
        columns[TEXT] = pa.string()
    return columns


def _place(
    patient: Ints,
    stamps: Ints,
    known: NDArray[np.bool_],
    moments: Moments,
    plan: ModalityPlan,
    *,
    name: str,
    findings: Findings,
) -> tuple[Ints, Ints, Ints]:
    """Row, sample and bin of every event in a sample's window; what is unknown, in the future or too late is counted.

    An event after the index time of several samples counts once for each.
    """
    future = known & (stamps > int(datetime.now(UTC).timestamp() * 1e6))
    usable = np.flatnonzero(known & ~future)
    row, sample = moments.pairs(patient[usable])
    row = usable[row]
    index, span = moments.index_time[sample], round((plan.hours or 0) * HOUR)  # ModalityPlan lets no events lack them
    after = stamps[row] > index
    offset = stamps[row] - (index - round(plan.gap_hours * HOUR) - span)
    inside = (offset > 0) & (offset <= span)
    for what, count in {
        "time missing or unreadable": int((~known).sum()),
        "dated in the future": int(future.sum()),
        "after the index time": int(after.sum()),
    }.items():
        if count:
            findings.repairs[f"{name}: {what}, never used"] += count
    return row[inside], sample[inside], (offset[inside] * plan.bins - 1) // span


@dataclass(frozen=True, kw_only=True)
class _Grid:
    """Sums in `UNIT` (N, bins, fields) and how many values they hold."""

    sums: NDArray[np.int64]
    counts: NDArray[np.int32]
    folder: Path

    @classmethod
    def empty(cls, shape: tuple[int, int, int], *, folder: Path) -> _Grid:
        sums: Any = large.zeros(shape, "int64", folder=folder)
        counts: Any = large.zeros(shape, "int32", folder=folder)
        return cls(sums=sums, counts=counts, folder=folder)

    def add(self, sample: Ints, bins: Ints, fields: Ints, values: NDArray[np.float64]) -> None:
        """Add values; NaN are left out."""
        there = np.isfinite(values)
        at = (sample[there], bins[there], fields[there])
        np.add.at(self.sums, at, np.rint(values[there] / UNIT).astype(np.int64))
        np.add.at(self.counts, at, 1)

    def means(self) -> Events:
        """The mean of every bin."""
        values: Any = large.zeros(self.sums.shape, "float32", folder=self.folder)
        observed: Any = large.zeros(self.sums.shape, "bool", folder=self.folder)
        for start in range(0, len(values), BLOCK):
            block = slice(start, start + BLOCK)
            n = self.counts[block]
            observed[block] = n > 0
            values[block] = self.sums[block] * UNIT / np.maximum(n, 1)
        return Events(values=values, observed=observed)
