"""Read a DICOM ECG (12-lead and General ECG Waveform Storage; PS3.3 C.10.9, lead codes PS3.16 CID 3001).

pydicom decodes; the claimed sizes are held against the bytes that are there first.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pydicom.waveforms.numpy_handler import WAVEFORM_DTYPES, multiplex_array

from fl_client.data.cine.identity import check_identity
from fl_client.data.ecg_recording import IsLead, Recording, check_size
from fl_client.data.findings import UnreadableError, regular_file

MAX_BYTES = 16 * 1024**2  # twenty minutes of 12 leads at 500 Hz
MAX_ITEMS = 20_000  # of sequences: each costs a hundred times its bytes in memory
STORAGE = {
    "1.2.840.10008.5.1.4.1.1.9.1.1": "12-lead ECG Waveform Storage",
    "1.2.840.10008.5.1.4.1.1.9.1.2": "General ECG Waveform Storage",
}
PLAIN = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)  # a deflated file may grow a thousandfold when it is read
LINEAR = frozenset({"SB", "UB", "SS", "US", "SL", "UL"})  # not the logarithmic MB and AB
LEADS = {1: "I", 2: "II", **{2 + k: f"V{k}" for k in range(1, 7)}, 61: "III", 62: "aVR", 63: "aVL", 64: "aVF"}
"""Last part of a lead's code, SCPECG 5.6.3-9-N or MDC 2:N -> lead."""

_ITEM = b"\xfe\xff\x00\xe0"
_CODE = re.compile(r"(?:5\.6\.3-9-|2:)(\d{1,3})")


def read_dicom_ecg(path: Path, named: str, *, seconds: float, is_lead: IsLead) -> Recording:
    """Read at most ``seconds`` of the multiplex group that holds the most wanted leads, an original one.

    Raises:
        UnreadableError: no ECG, malformed, beyond a bound, truncated, naming the patient, or without a usable lead.
    """
    regular_file(path, max_bytes=MAX_BYTES)
    try:
        if (items := path.read_bytes().count(_ITEM)) > MAX_ITEMS:
            raise UnreadableError("ecg-header-malformed", f"{named}: {items} sequence items, at most {MAX_ITEMS}")
        syntax = read_file_meta_info(path).get("TransferSyntaxUID")
        if syntax not in PLAIN:
            mend = "Write it as Explicit VR Little Endian, e.g. with dcmtk's dcmconv +te."
            raise UnreadableError("format-not-supported", f"{named}: transfer syntax {syntax}. {mend}")
        dataset = dcmread(path)
        if (uid := str(dataset.get("SOPClassUID", "none"))) not in STORAGE:
            mend = f"Read are {' and '.join(STORAGE.values())}."
            raise UnreadableError("format-not-supported", f"{named}: SOP class {uid}. {mend}")
        notes = check_identity(dataset, named)
        found = _decode(dataset, named, seconds=seconds, is_lead=is_lead)
        return replace(found, notes=(*notes, *found.notes))
    except UnreadableError:
        raise
    except Exception as error:
        # pydicom raises whatever a malformed element leads to
        raise UnreadableError("ecg-header-malformed", f"{named}: {type(error).__name__}: {str(error)[:200]}") from error


def _decode(dataset: Dataset, named: str, *, seconds: float, is_lead: IsLead) -> Recording:
    groups = list(dataset.get("WaveformSequence") or ())
    ranked = sorted(range(len(groups)), key=lambda g: _rank(groups[g], is_lead), reverse=True)
    if not ranked or not _rank(groups[ranked[0]], is_lead)[1]:
        names = [_name(channel) for group in groups for channel in group.get("ChannelDefinitionSequence") or ()]
        raise UnreadableError(
            "no-usable-lead", f"{named}: {names}. Map them in [modalities.NAME.aliases] of site.toml."
        )
    group = groups[ranked[0]]
    channels = list(group.ChannelDefinitionSequence)
    rate, samples = float(group.SamplingFrequency), int(group.NumberOfWaveformSamples)
    check_size(named, rate=rate, samples=samples, leads=len(channels))
    bits, code = int(group.WaveformBitsAllocated), str(group.WaveformSampleInterpretation)
    known = (bits, code) in WAVEFORM_DTYPES and code in LINEAR
    if not known or int(group.NumberOfWaveformChannels) != len(channels):
        raise UnreadableError("ecg-format", f"{named}: {len(channels)} channels of {bits} bits {code} are not read")
    need, have = samples * len(channels) * bits // 8, len(group.WaveformData)
    if have < need:
        raise UnreadableError("ecg-signal-truncated", f"{named} has {have} bytes of samples, its header needs {need}")
    count = min(samples, int(np.ceil(seconds * rate)))
    signal = multiplex_array(dataset, ranked[0], as_raw=False)[:count]
    signal[_padded(dataset, ranked[0], np.dtype(WAVEFORM_DTYPES[bits, code]))[:count]] = np.nan
    return Recording(
        rate=rate,
        names=tuple(_name(channel) for channel in channels),
        units=tuple(_unit(channel) for channel in channels),
        signal=np.asarray(signal, dtype=np.float64),
        notes=() if _is_original(group) else ("derived signal, such as an averaged beat",),
    )


def _rank(group: Dataset, is_lead: IsLead) -> tuple[bool, int, int]:
    """An original signal before a derived one (an averaged beat), then the most leads, then the longest."""
    leads = {_name(channel) for channel in group.get("ChannelDefinitionSequence") or ()}
    wanted = sum(map(is_lead, leads))
    return _is_original(group) and wanted > 0, wanted, int(group.get("NumberOfWaveformSamples") or 0)


def _is_original(group: Dataset) -> bool:
    return str(group.get("WaveformOriginality", "ORIGINAL")) == "ORIGINAL"


def _padded(dataset: Dataset, group: int, dtype: np.dtype[np.generic]) -> NDArray[np.bool_]:
    """Where no sample was taken: (samples, channels)."""
    raw = multiplex_array(dataset, group, as_raw=True)
    padding = dataset.WaveformSequence[group].get("WaveformPaddingValue") or b""
    if len(padding) < dtype.itemsize:
        return np.zeros(raw.shape, dtype=bool)
    return np.asarray(raw == np.frombuffer(padding[: dtype.itemsize], dtype=dtype)[0])


def _name(channel: Dataset) -> str:
    """The standard lead of a known code; else the label, or the code's meaning up to a bracket or comma."""
    source = next(iter(channel.get("ChannelSourceSequence") or ()), Dataset())
    value = str(source.get("CodeValue", "")).strip()
    match = _CODE.fullmatch(value)
    if match is not None and int(match[1]) in LEADS:
        return LEADS[int(match[1])]
    if value.startswith("MDC_ECG_LEAD_"):
        return value.removeprefix("MDC_ECG_LEAD_")
    label = str(channel.get("ChannelLabel") or "").strip()
    return label or re.split(r"[(,]", str(source.get("CodeMeaning", "")))[0].strip()


def _unit(channel: Dataset) -> str:
    """UCUM code of the sensitivity's unit; "" where the channel has no sensitivity."""
    if channel.get("ChannelSensitivity") is None:
        return ""
    unit = next(iter(channel.get("ChannelSensitivityUnitsSequence") or ()), Dataset())
    return str(unit.get("CodeValue", "")).strip()
