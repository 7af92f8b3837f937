"""Writers of ECG files for tests, by the letter of their standards and without the libraries that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from fl_client.data.ecg import WAVEFORM
from fl_client.data.findings import UnreadableError
from fl_client.data.kinds import Sample
from fl_shared.site import WaveformFiles
from fl_shared.study import ModalityPlan

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
SCPECG = dict(zip(LEADS, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), strict=True))
STEP = 1e-3  # mV of one digital step


def plan(leads: tuple[str, ...] = LEADS, rate: float = 100.0, seconds: float = 4.0) -> ModalityPlan:
    return ModalityPlan(kind="waveform", leads=leads, rate=rate, seconds=seconds)


def mapped(**keys: Any) -> WaveformFiles:
    return WaveformFiles(kind="waveform", column="ecg_path", **keys)


def read(root: Path, name: str, *, of: ModalityPlan | None = None, by: WaveformFiles | None = None) -> Sample:
    return WAVEFORM.read(root, name, plan=of or plan(), mapped=by or mapped())


def check_of(root: Path, name: str, **keys: Any) -> str:
    """The code by which a file is set aside."""
    try:
        read(root, name, **keys)
    except UnreadableError as error:
        return error.check
    return "read"


def heart(leads: int = 12, *, rate: float = 500.0, seconds: float = 6.0) -> np.ndarray:
    """Smooth, distinct leads in steps of 1 uV: (T, leads) int16; of twelve, III to aVF follow from I and II."""
    t = np.arange(round(rate * seconds)) / rate
    x = np.stack([np.sin(2 * np.pi * (1.1 + 0.4 * k) * t) + 0.2 * np.cos(60 * t + k) for k in range(leads)], axis=1)
    if leads == 12:
        i, ii = x[:, 0].copy(), x[:, 1].copy()
        x[:, 2:6] = np.stack([ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2], axis=1)
    return np.round(x / STEP).astype("<i2")


def write_wfdb(folder: Path, name: str, digital: np.ndarray, *, leads=LEADS, rate: float = 500, **line: Any) -> str:
    """Format 16 in one file; ``line`` replaces parts of the signal lines (gain, unit, checksum)."""
    lines = [f"{name} {digital.shape[1]} {rate:g} {len(digital)}"]
    for k, lead in enumerate(leads):
        part = {"gain": "1000(0)", "unit": "/mV", "checksum": int(digital[:, k].sum(dtype=np.int64)) % 65536} | line
        lines.append(f"{name}.dat 16 {part['gain']}{part['unit']} 16 0 {digital[0, k]} {part['checksum']} 0 {lead}")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / f"{name}.dat").write_bytes(digital.astype("<i2").tobytes())
    return name


def edf_bytes(
    signals: list[np.ndarray],
    labels: list[str],
    *,
    records: int,
    units: list[str] | None = None,
    physical: tuple[str, str] = ("-32768", "32767"),
    duration: float = 1.0,
    patient: str = "X X X X",
    plus: str = "EDF+C",
) -> bytes:
    """EDF(+) of int16 signals, each ``records`` times a whole number of samples; a step is a unit, unless told."""
    n, per = len(signals), [len(s) // records for s in signals]
    fixed = [("0", 8), (patient, 80), ("Startdate 01-JAN-2020 X X X", 80), ("01.01.20", 8), ("10.00.00", 8)]
    fixed += [(str(256 * (n + 1)), 8), (plus, 44), (str(records), 8), (f"{duration:g}", 8), (str(n), 4)]
    each = [(labels, 16), ([""] * n, 80), (units or ["uV"] * n, 8), ([physical[0]] * n, 8), ([physical[1]] * n, 8)]
    each += [(["-32768"] * n, 8), (["32767"] * n, 8), ([""] * n, 80), ([str(p) for p in per], 8), ([""] * n, 32)]
    head = "".join(text.ljust(width) for text, width in fixed)
    head += "".join(value.ljust(width) for values, width in each for value in values)
    parts = [s[r * p : (r + 1) * p] for r in range(records) for s, p in zip(signals, per, strict=True)]
    return head.encode("latin-1") + b"".join(part.astype("<i2").tobytes() for part in parts)


def edf_plus(digital: np.ndarray, *, leads=LEADS, **keys: Any) -> bytes:
    """EDF+C at 500 Hz in records of 1 s: leads as the standard names them, and the annotations that it demands."""
    records = len(digital) // 500
    marks = b"".join(f"+{r}\x14\x14\0".encode().ljust(40, b"\0") for r in range(records))
    signals = [*digital.T, np.frombuffer(marks, dtype="<i2")]
    units = [*keys.pop("units", ["uV"] * len(leads)), ""]
    return edf_bytes(signals, [*(f"ECG {x}" for x in leads), "EDF Annotations"], records=records, units=units, **keys)


def group_of(
    digital: np.ndarray, *, leads=LEADS, rate: float = 500.0, unit: str = "uV", scheme: str = "SCPECG", **changes: Any
) -> Dataset:
    """A multiplex group with a sensitivity of 1 ``unit`` a step; ``changes`` set its attributes, None removes them."""
    group = Dataset()
    group.WaveformOriginality = "ORIGINAL"
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = digital.shape[1], len(digital)
    group.SamplingFrequency = rate
    group.ChannelDefinitionSequence = [_channel(lead, unit, scheme) for lead in leads]
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.WaveformData = digital.astype("<i2").tobytes()
    for name, value in changes.items():
        setattr(group, name, value)
    return group


def _channel(lead: str, unit: str, scheme: str) -> Dataset:
    channel, source = Dataset(), Dataset()
    number = SCPECG.get(lead)
    values = {"SCPECG": f"5.6.3-9-{number}", "MDC": f"2:{number}", "name": f"MDC_ECG_LEAD_{lead.upper()}"}
    source.CodeValue = values.get(scheme, lead if number is None else "local")
    source.CodingSchemeDesignator = scheme if scheme in ("SCPECG", "MDC") else "99LOCAL"
    source.CodeMeaning = f"Lead {lead} (Einthoven)"
    channel.ChannelSourceSequence = [source]
    channel.WaveformBitsStored = 16
    if unit:
        kind = Dataset()
        kind.CodeValue, kind.CodingSchemeDesignator, kind.CodeMeaning = unit, "UCUM", "unit"
        channel.ChannelSensitivity, channel.ChannelSensitivityUnitsSequence = "1", [kind]
        channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = "1", "0"
    return channel


def write_dicom(
    path: Path, *groups: Dataset, sop: str = "1.2.840.10008.5.1.4.1.1.9.1.1", syntax=None, **tags: Any
) -> str:
    """A DICOM ECG without the patient's name, unless ``tags`` give it."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax or ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop, generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop, meta.MediaStorageSOPInstanceUID
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = "", "p1", ""
    dataset.Modality, dataset.WaveformSequence = "ECG", list(groups)
    for name, value in tags.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path.name
