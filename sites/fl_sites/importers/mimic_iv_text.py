"""Notes and prescriptions that were known at the index time: ``text/<stay>.txt`` and ``prescriptions.csv``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pandas as pd

from fl_shared.commands import track
from fl_sites.importers.mimic_iv_events import BACK
from fl_sites.importers.mimic_iv_source import NOTES, REQUIRED, Source, stream
from fl_sites.importers.mimic_iv_stays import REACH

_DAY = pd.Timedelta(days=1)
_NOTE = ["stay_id", "site", "known", "text"]
_PRESCRIBED = {
    "subject_id": "subject_id",
    "starttime": "time",
    "drug": "drug",
    "dose_val_rx": "dose",
    "dose_unit_rx": "unit",
    "route": "route",
    "doses_per_24_hrs": "frequency",
}


def write_notes(source: Source, stays: pd.DataFrame, folders: Mapping[str, Path]) -> pd.DataFrame:
    """Write a text a stay; returns columns ``text_path`` and ``text_time`` (empty where there is none).

    A text holds the radiology reports of the `REACH` before the index time, the newest first, then the last discharge
    summary of an *earlier* admission. The summary of the admission itself is never taken: it tells the outcome. A note
    counts from when it was stored, not from when it was dated.
    """
    reports = summaries = pd.DataFrame(columns=_NOTE)
    for notes in _notes(source.radiology, stays):
        reports = pd.concat([reports, notes.loc[notes["charttime"] > notes["index_time"] - REACH, _NOTE]])
    for notes in _notes(source.discharge, stays):
        other = notes["hadm_id"].notna() & (notes["hadm_id"] != notes["hadm_id_stay"])
        summaries = pd.concat([summaries, notes.loc[other, _NOTE]]).sort_values(["stay_id", "known", "text"])
        summaries = summaries.drop_duplicates("stay_id", keep="last")
    reports = reports.sort_values(["stay_id", "known", "text"], ascending=[True, False, True])
    out = pd.DataFrame("", index=stays["stay_id"], columns=["text_path", "text_time"])
    for stay, notes in pd.concat([reports, summaries]).groupby("stay_id", sort=True):
        name = f"text/{stay}.txt"
        text = "\n\n".join(note.strip() for note in notes["text"]) + "\n"
        (folders[notes["site"].iloc[0]] / name).write_text(text, encoding="utf-8", newline="\n")
        out.loc[stay] = [name, str(notes["known"].max() - BACK)]
    return out.set_index(stays.index)


def _notes(path: Path | None, stays: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Notes joined to the stays that knew them: column ``known``, at or before ``index_time``."""
    if path is None:
        return
    joined = stays[["subject_id", "hadm_id", "stay_id", "site", "index_time"]]
    for block in track(stream(path, NOTES, subjects=set(stays["subject_id"])), path.name):
        notes = block.to_pandas().dropna(subset=["charttime", "text"])
        notes = notes.merge(joined, on="subject_id", suffixes=("", "_stay"))
        # without a time of storing a day is allowed for: discharge summaries are dated at midnight
        stored = notes["storetime"].fillna(notes["charttime"] + _DAY)
        notes["known"] = stored.where(stored > notes["charttime"], notes["charttime"])
        yield notes[notes["known"] <= notes["index_time"]]


def write_prescriptions(source: Source, stays: pd.DataFrame, folders: Mapping[str, Path]) -> None:
    """Write ``prescriptions.csv`` of every site: what the stay's admission had started by the index time.

    Diluents (``drug_type`` BASE) and exact repetitions are left out; ``frequency`` is the number of doses in 24 h.
    """
    last = stays.groupby("hadm_id").agg(site=("site", "first"), until=("index_time", "max")).reset_index()
    name = "hosp/prescriptions.csv.gz"
    kept = [pd.DataFrame(columns=["site", *_PRESCRIBED.values()])]
    blocks = stream(source.root / name, REQUIRED[name], subjects=set(stays["subject_id"]))
    for block in track(blocks, "prescriptions.csv.gz"):
        rows = block.to_pandas().merge(last, on="hadm_id").dropna(subset=["drug", "starttime"])
        rows = rows[(rows["starttime"] <= rows["until"]) & (rows["drug_type"] != "BASE")]
        rows["starttime"] -= BACK
        doses = rows["doses_per_24_hrs"].where(rows["doses_per_24_hrs"] > 0)  # 0: once, or when needed
        rows["doses_per_24_hrs"] = doses.map("{:g} in 24 h".format, na_action="ignore")
        kept.append(rows[["site", *_PRESCRIBED]].rename(columns=_PRESCRIBED))
    table = pd.concat(kept).drop_duplicates()
    table = table.sort_values([*_PRESCRIBED.values()])
    for site, folder in folders.items():
        rows = table.loc[table["site"] == site, [*_PRESCRIBED.values()]]
        rows.to_csv(folder / "prescriptions.csv", index=False, encoding="utf-8", lineterminator="\n")
