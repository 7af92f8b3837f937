"""Writes one site folder in real file formats: signals, images, notes, long tables and the samples table.

Every file that can hold a word says that it is synthetic: WFDB comments, DICOM attributes, NIfTI's ``descrip``, parquet
metadata, notes, ``site.toml``. CSV has no room for it: ``samples.csv`` and ``prescriptions.csv`` are labelled by the
``site.toml`` beside them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fl_shared.commands import track
from fl_shared.concepts import concept
from fl_sites.study_file import write_model
from fl_sites.synthetic.cine import Heart, draw_cine
from fl_sites.synthetic.cine_dicom import Exam, write_scout, write_stack
from fl_sites.synthetic.cine_enhanced import write_enhanced
from fl_sites.synthetic.cine_mask import write_mask
from fl_sites.synthetic.ecg import draw_ecg, write_ecg
from fl_sites.synthetic.events import draw_events, write_events
from fl_sites.synthetic.hospitals import Hospital
from fl_sites.synthetic.measures import in_unit
from fl_sites.synthetic.notes import draw_note
from fl_sites.synthetic.outcomes import COLUMNS, DAYS
from fl_sites.synthetic.patients import MEASURED
from fl_sites.synthetic.plans import MODALITIES, SITE_HEADER, site_file
from fl_sites.synthetic.prescriptions import COLUMNS as PRESCRIBED
from fl_sites.synthetic.prescriptions import draw_prescriptions
from fl_sites.synthetic.words import CLASSES

_DECIMALS = 4
_SHORTEST = 0.01  # days: a time of 0 would be an outcome at the index time


@dataclass(frozen=True, kw_only=True)
class SiteFolder:
    """A folder to be written: its hospital, its records, and the numbers that fix its draws."""

    path: Path
    hospital: Hospital
    records: pd.DataFrame
    entropy: tuple[int, int]

    def write(self, modalities: Collection[str]) -> None:
        """Write the files of the modalities, ``samples.csv`` and ``site.toml``. No modality changes another's draws."""
        table = _samples(self.hospital, self.records)
        if "cine" in modalities:
            table = table.assign(**self._cine())
        if "ecg" in modalities:
            table = table.assign(ecg_path=self._ecg())
        if "series" in modalities:
            write_events(self.path / "events.parquet", draw_events(self._rng("series"), self.hospital, self.records))
        if "text" in modalities:
            table = table.assign(**self._text())
        table.to_csv(self.path / "samples.csv", index=False, encoding=self.hospital.encoding)
        site = site_file(self.path.name, self.hospital, modalities=modalities)
        write_model(self.path / "site.toml", site, header=SITE_HEADER)

    def _rng(self, modality: str) -> np.random.Generator:
        return np.random.default_rng([*self.entropy, 1 + MODALITIES.index(modality)])

    def _present(self, rng: np.random.Generator, modality: str) -> Iterator[tuple[dict[str, Any], bool]]:
        """Every record, and whether it has the modality."""
        there = rng.random(len(self.records)) >= self.hospital.missing[modality]
        rows = self.records.to_dict("records")
        for row, present in zip(track(rows, f"{self.path.name} {modality}"), there, strict=True):
            yield {str(name): value for name, value in row.items()}, bool(present)

    def _ecg(self) -> list[str]:
        (self.path / "ecg").mkdir()
        rng, paths = self._rng("ecg"), []
        for row, present in self._present(rng, "ecg"):
            if present:
                state = {name: row[name] for name in ("severity", "rhythm", "heart_rate", "qrs", "scar", "scar_angle")}
                signal = draw_ecg(rng, self.hospital, **state)
                write_ecg(self.path / "ecg", row["sample_id"], signal, unit=self.hospital.ecg_unit)
            paths.append(f"ecg/{row['sample_id']}.hea" if present else "")
        return paths

    def _text(self) -> dict[str, list[str]]:
        """Notes and prescriptions; the columns of the notes."""
        (self.path / "text").mkdir()
        rng, language, encoding = self._rng("text"), self.hospital.language, self.hospital.encoding
        paths, times, prescribed = [], [], []
        for row, present in self._present(rng, "text"):
            name = f"text/{row['sample_id']}.txt" if present else ""
            written = row["index_time"] - pd.Timedelta(minutes=int(rng.integers(5, 180)))
            if present:
                note = draw_note(rng, language=language, severity=row["severity"], rhythm=row["rhythm"])
                (self.path / name).write_text(note + "\n", encoding=encoding)
                prescribed += draw_prescriptions(rng, language=language, record=row)
            paths.append(name)
            times.append(f"{written:%Y-%m-%dT%H:%M:%S}" if present else "")
        table = pd.DataFrame(prescribed, columns=list(PRESCRIBED), dtype=str)
        table.to_csv(self.path / "prescriptions.csv", index=False, encoding=encoding)
        return {"text_path": paths, "text_time": times}

    def _cine(self) -> dict[str, list[str]]:
        """Image folders and masks; their columns."""
        (self.path / "cine").mkdir()
        (self.path / "masks").mkdir()
        rng, paths, masks = self._rng("cine"), [], []
        for row, present in self._present(rng, "cine"):
            name = row["sample_id"]
            if present:
                self._write_cine(rng, row)
            paths.append(f"cine/{name}" if present else "")
            masks.append(f"masks/{name}.nii.gz" if present else "")
        return {"cine_path": paths, "mask_path": masks}

    def _write_cine(self, rng: np.random.Generator, row: dict[str, Any]) -> None:
        scanner, folder = self.hospital.scanner, self.path / "cine" / row["sample_id"]
        heart = Heart(
            volume=row["volume"],
            ejection=row["ejection_fraction"] / 100,
            wall=row["wall"],
            scar=row["scar"],
            scar_angle=row["scar_angle"],
            interval=round(60_000 / row["heart_rate"], 1),
        )
        exam = Exam(
            key=f"{rng.bytes(16).hex()}/{row['sample_id']}",
            patient_id=row["patient_id"],
            sex="F" if row["sex"] else "M",
            age=int(row["age"]),
            when=row["index_time"] - pd.Timedelta(hours=int(rng.integers(12, 24 * 14))),
        )
        cine = draw_cine(rng, heart, scanner)
        folder.mkdir()
        (write_enhanced if scanner.syntax == "enhanced" else write_stack)(folder, cine, scanner, exam)
        write_scout(folder, rng, scanner, exam)
        write_mask(self.path / "masks" / f"{row['sample_id']}.nii.gz", cine, scanner)


def _samples(hospital: Hospital, records: pd.DataFrame) -> pd.DataFrame:
    """The samples table as the hospital writes it: its units, codes and words, no latent state."""
    table = records[["patient_id", "sample_id", "index_time", "age", "sex", *MEASURED, *COLUMNS]].copy()
    table["index_time"] = table["index_time"].dt.strftime("%Y-%m-%dT%H:%M:%S")
    table["sex"] = table["sex"].map({0: hospital.male, 1: hospital.female})
    for name in MEASURED:
        what = concept(name)
        table[name] = in_unit(table[name].to_numpy(), hospital.units.get(name, what.unit), what).round(_DECIMALS)
    for name in DAYS:
        table[name] = table[name].clip(lower=_SHORTEST).round(2)
    for name in ("death_cause", "follow_up"):
        table[name] = table[name].map(CLASSES[hospital.language] | {"": ""})
    return table
