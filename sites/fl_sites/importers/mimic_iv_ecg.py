"""The last ECG before the index time of each stay, from MIMIC-IV-ECG: WFDB files, copied byte for byte."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from fl_shared.commands import track
from fl_shared.errors import Fault
from fl_sites.importers.imported import incomplete, listed
from fl_sites.importers.mimic_iv_source import ECG, Source, read
from fl_sites.importers.mimic_iv_stays import REACH


def choose_ecgs(source: Source, stays: pd.DataFrame) -> pd.Series:
    """The release's path of each stay's ECG (without suffix; missing where there is none): the last one within
    `REACH` before the index time. Its machine's statements are not taken: they name diagnoses.

    Raises:
        ConsiliumError: (exit code 12) files of chosen records are absent: a count, and the first few.
    """
    if source.ecg is None:
        return pd.Series(None, index=stays.index, dtype="object")
    records = read(source.ecg, ECG, subjects=set(stays["subject_id"]))
    pairs = records.merge(stays[["subject_id", "stay_id", "index_time"]], on="subject_id")
    pairs = pairs[(pairs["ecg_time"] <= pairs["index_time"]) & (pairs["ecg_time"] > pairs["index_time"] - REACH)]
    last = pairs.sort_values(["ecg_time", "study_id"]).groupby("stay_id")["path"].last()
    files = [source.ecg.parent / f"{record}{suffix}" for record in sorted(set(last)) for suffix in (".hea", ".dat")]
    if absent := [file for file in files if not file.is_file()]:
        value = listed([file.relative_to(source.ecg.parent) for file in absent])
        mend = "Download the folder 'files' of MIMIC-IV-ECG again (its folder names are part of the paths)."
        key = f"{len(absent)} of {len(files)} files"
        fault = Fault(file=str(source.ecg.parent), key=key, value=value, problem="missing", mend=mend)
        raise incomplete(source.ecg.parent, "MIMIC-IV-ECG", [fault])
    return stays["stay_id"].map(last)


def copy_ecgs(source: Source, stays: pd.DataFrame, folders: Mapping[str, Path]) -> pd.Series:
    """Copy the files of ``stays["ecg"]``; returns ``ecg_path`` of each stay (missing where there is none)."""
    if source.ecg is None:
        return stays["ecg"]
    chosen = stays.dropna(subset=["ecg"])
    for site, record in track(sorted(set(zip(chosen["site"], chosen["ecg"], strict=True))), "ECG"):
        for suffix in (".hea", ".dat"):
            target = folders[site] / "ecg" / f"{Path(record).name}{suffix}"
            shutil.copyfile(source.ecg.parent / f"{record}{suffix}", target)
    return "ecg/" + stays["ecg"].str.rsplit("/", n=1).str[-1] + ".hea"
