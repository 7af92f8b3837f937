"""Prescriptions -> sentences for the text encoder, as M-PRTM reads them: history and prescriptions in one text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa

from fl_client.data.findings import MISSING, Findings
from fl_client.data.moments import Moments, utc
from fl_client.data.scan import LongTable
from fl_client.data.table import require
from fl_client.data.text import identifier_in
from fl_shared.site import MedicationTable, Site

PARTS = ("drug", "dose", "unit", "route", "frequency")


def sentences(frame: pd.DataFrame, *, site: Site, table: MedicationTable, findings: Findings) -> list[str]:
    """One text a sample, in the order of ``frame``: "aspirin 100 mg oral once daily. furosemide 40 mg oral."

    Prescriptions up to the index time, in order of time, then drug; a sentence that was said already is not said
    again. No word but those of the file is used, so that any language fits. Empty when there are none.

    Args:
        frame: samples with ``patient_id`` and ``index_time`` as text.
        site: time zone of naive times, encoding of CSV.
        table: the file and its columns; one that is left at its default may be absent.
        findings: where faults and counts are told.
    """
    source = LongTable.open(site.folder / table.file, site=site, subject=table.subject, findings=findings)
    columns = None if source is None else _columns(source, table, findings=findings)
    if source is None or columns is None or frame.empty:
        return [""] * len(frame)
    moments = Moments.of(frame, site.zone)
    parts = {column: pa.string() for part, column in columns.items() if part in PARTS}
    said = [pd.DataFrame(columns=["sample", "time", "drug", "sentence"])]
    for patient, rows in source.rows({table.time: None} | parts, patients=moments.patients):
        stamps, known = utc(rows[table.time], site.zone, name="medications", findings=findings)
        row, sample = moments.pairs(patient)
        early = known[row] & (stamps[row] <= moments.index_time[sample])
        for what, n in {
            "time missing or unreadable": int((~known).sum()),
            "after the index time": int((known[row] & ~early).sum()),
        }.items():
            if n:
                findings.repairs[f"medications: {what}, never used"] += n
        used, back = np.unique(row[early], return_inverse=True)
        told = _told(rows.iloc[used], columns, findings=findings).iloc[back]
        said.append(told.assign(sample=sample[early], time=stamps[row[early]]))
    source.check_matched()
    whole = pd.concat(said[1:] or said).query("sentence != ''").sort_values(["sample", "time", "drug", "sentence"])
    texts = whole.drop_duplicates(["sample", "sentence"]).groupby("sample")["sentence"].agg(" ".join)
    return texts.reindex(range(len(frame)), fill_value="").tolist()


def with_medications(texts: Mapping[int, str], sentences: Sequence[str]) -> dict[int, str]:
    """Notes by sample number, each followed by the sample's prescriptions; these alone where there is no note."""
    joined = {i: "\n".join(filter(None, (texts.get(i, ""), told))) for i, told in enumerate(sentences)}
    return {i: text for i, text in joined.items() if text}


def _columns(source: LongTable, table: MedicationTable, *, findings: Findings) -> dict[str, str] | None:
    """What a column holds -> its name; None, with rejects, when one that is needed or was named is missing."""
    named = {key: getattr(table, key) for key in ("subject", "time", *PARTS)}
    needed = {key for key in named if key in table.model_fields_set} | {"subject", "time", "drug"}
    there = source.columns
    head = pd.DataFrame(columns=list(there))
    wanted = {column: "medications" for key, column in named.items() if key in needed and column is not None}
    require(head, wanted, file=source.file, findings=findings)
    if not set(wanted) <= set(there) or not source.check(time=table.time):
        return None
    for key, column in named.items():
        if column is not None and column not in there:
            findings.repairs[f"medications: no column '{column}', sentences without {key}"] += 1
    return {key: column for key, column in named.items() if column in there}


def _told(rows: pd.DataFrame, columns: Mapping[str, str], *, findings: Findings) -> pd.DataFrame:
    """``drug`` and ``sentence`` of every row, "" where there is no drug or an identifier stands in it."""
    cells = {part: _clean(rows[columns[part]]) for part in PARTS if part in columns}
    if "unit" in cells and "dose" in cells:
        cells["unit"] = cells["unit"].where(cells["dose"] != "", "")  # a unit alone says nothing
    sentence = pd.Series(" ".join(filter(None, row)) for row in zip(*cells.values(), strict=True))
    sentence = sentence.astype(str) + "."
    drugless = (cells["drug"] == "").to_numpy()
    telling = sentence.map({text: identifier_in(text) is not None for text in sentence.unique()}).to_numpy(dtype=bool)
    for what, n in {"no drug": int(drugless.sum()), "an identifier in it": int((telling & ~drugless).sum())}.items():
        if n:
            findings.repairs[f"medications: {what}, left out"] += n
    kept = sentence.mask(drugless | telling, "")
    return pd.DataFrame({"drug": cells["drug"].to_numpy(), "sentence": kept.to_numpy()})


def _clean(column: pd.Series) -> pd.Series:
    """Cells on one line without a full stop, "" for missing, whole numbers without a decimal point."""
    text = column.fillna("").str.replace(r"\s+", " ", regex=True).str.strip(" ").str.rstrip(" .。")
    text = text.mask(text.str.lower().isin(MISSING), "")
    return text.str.replace(r"^(-?\d+)\.0+$", r"\1", regex=True)
