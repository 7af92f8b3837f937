"""What every ECG format is brought to before the recipe of `ecg`, the bounds in front of it, and which format it is.

Formats are told by content: hospitals name files as they like.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl_client.data.findings import UnreadableError

MAX_LEADS = 64
MAX_SAMPLES = 50_000_000  # of all leads
RATES = (50.0, 20_000.0)  # Hz

IsLead = Callable[[str], bool]
"""Whether a name in a file means a lead that the study wants (or I or II, from which others are derived)."""

SUPPORTED = "Read are WFDB (16-bit and other uncompressed formats), EDF/EDF+ and DICOM ECG"

_HEAD = 4096
_CONVERT = {
    "SCP-ECG": "convert it to DICOM or WFDB, e.g. with the ECG Toolkit",
    "HL7 aECG XML": "convert it to DICOM or WFDB, e.g. with the ECG Toolkit",
    "MUSE XML": "export it from MUSE as DICOM",
    "XML": "export it as DICOM or WFDB",
    "BDF": "convert it to EDF+, e.g. with EDFbrowser",
    "GDF": "convert it to EDF+, e.g. with BioSig's save2gdf",
    "a compressed archive": "unpack it",
    "PDF": "a picture of an ECG is no signal: export it as DICOM or WFDB",
}


@dataclass(frozen=True, kw_only=True)
class Recording:
    """rate Hz; names and units as written; signal (samples, leads) float64, NaN where invalid; what to count."""

    rate: float
    names: tuple[str, ...]
    units: tuple[str, ...]
    signal: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def check_size(named: str, *, rate: float, samples: int, leads: int) -> None:
    """Hold what a header claims against the bounds, before anything is allocated.

    Raises:
        UnreadableError: too many leads, a rate that no ECG has, shorter than 1 s, or too long.
    """
    if not 1 <= leads <= MAX_LEADS:
        raise UnreadableError("ecg-lead-count", f"{named}: {leads} leads, 1 to {MAX_LEADS} are read")
    if not (math.isfinite(rate) and RATES[0] <= rate <= RATES[1]):
        raise UnreadableError("ecg-rate", f"{named}: {rate:g} Hz, outside {RATES[0]:g} to {RATES[1]:g} Hz")
    if samples < rate or samples * leads > MAX_SAMPLES:
        detail = f"{samples} samples a lead; at least 1 s and at most {MAX_SAMPLES} samples in all are read"
        raise UnreadableError("ecg-length", f"{named}: {detail}")


def format_of(path: Path) -> Literal["edf", "dicom"] | None:
    """The format of a file by its first bytes; None when they say nothing (a WFDB record, if anything).

    Raises:
        UnreadableError: a format that is not read; the detail says what to convert it with.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        raise UnreadableError("file-unreadable", f"{path.name}: {type(error).__name__}") from error
    if head[:8] == b"0       ":
        return "edf"
    if head[128:132] == b"DICM":
        return "dicom"
    if (other := _unsupported(head)) is not None:
        raise UnreadableError("format-not-supported", f"{path.name} is {other}: {_CONVERT[other]}. {SUPPORTED}.")
    return None


def _unsupported(head: bytes) -> str | None:
    if head[16:22] == b"SCPECG":  # section 0, behind checksum and length
        return "SCP-ECG"
    if head[:8] == b"\xffBIOSEMI":
        return "BDF"
    if head[:4] == b"GDF ":
        return "GDF"
    if head[:4] in (b"PK\x03\x04", b"\x28\xb5\x2f\xfd") or head[:2] == b"\x1f\x8b":
        return "a compressed archive"
    if head[:5] == b"%PDF-":
        return "PDF"
    text = head.replace(b"\0", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")  # UTF-8 or UTF-16, with or without mark
    if not text.startswith(b"<"):
        return None
    if b"AnnotatedECG" in text:
        return "HL7 aECG XML"
    return "MUSE XML" if b"RestingECG" in text else "XML"
