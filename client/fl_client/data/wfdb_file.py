"""Read the first seconds of a WFDB record, trusting nothing that its header says.

The header is parsed here (WFDB header(5)) before any library sees it: wfdb would open whatever path it names, drops
the micro sign of its units, and takes 15 ms a record. Format 16, which nearly every ECG has, is read here too
(tested equal to wfdb); wfdb reads the other uncompressed formats.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb
from numpy.typing import NDArray

from fl_client.data.findings import UnreadableError, inside, regular_file

MAX_HEADER_BYTES = 64 * 1024
MAX_SIGNAL_BYTES = 64 * 1024**2
MAX_LEADS = 64
MAX_PER_FRAME = 64
MAX_SAMPLES = 50_000_000
RATES = (50.0, 20_000.0)  # Hz
FORMATS = frozenset({"16", "24", "32", "61", "80", "160", "212", "310", "311"})  # uncompressed: size bounds memory
INVALID_16 = -32768
DEFAULT_GAIN = 200.0  # header(5): a gain of 0 or none

_RECORD = re.compile(
    r"[^\s/]+(?P<segments>/\d+)?\s+(?P<leads>\d{1,4})\s+(?P<rate>\d+(?:\.\d+)?)(?:/\S+)?\s+(?P<length>\d{1,12})(?:\s|$)",
    re.ASCII,
)
_SIGNAL = re.compile(
    r"(?P<file>\S+)\s+(?P<format>\d+)(?:x(?P<per_frame>\d{1,6}))?(?::(?P<skew>\d+))?(?:\+(?P<start>\d{1,12}))?"
    r"(?:\s+(?P<gain>-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)(?:\((?P<baseline>-?\d{1,12})\))?(?:/(?P<unit>\S+))?"
    r"(?:\s+\d+(?:\s+(?P<zero>-?\d{1,12})(?:\s+-?\d+(?:\s+-?\d+(?:\s+\d+(?:\s+(?P<lead>.+))?)?)?)?)?)?)?\s*",
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True)
class Lead:
    """One signal line of a header."""

    file: str
    format: str
    per_frame: int
    skew: int
    start: int
    gain: float
    baseline: int
    unit: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Recording:
    """rate Hz; names and units as written; signal (samples, leads) float64, NaN where invalid."""

    rate: float
    names: tuple[str, ...]
    units: tuple[str, ...]
    signal: NDArray[np.float64]


def read_wfdb(root: Path, named: str, *, seconds: float) -> Recording:
    """Read at most ``seconds`` of the record ``named`` (with or without its ``.hea`` or ``.dat``) under ``root``.

    Raises:
        UnreadableError: missing, malformed, beyond a cap, leading out of ``root``, or shorter than its header says.
    """
    # the header may be a symlink itself: it is resolved with its suffix
    header = regular_file(inside(root, re.sub(r"\.(?:hea|dat)$", "", named) + ".hea"), max_bytes=MAX_HEADER_BYTES)
    try:
        lines = [line.strip() for line in header.read_bytes().decode("utf-8", errors="replace").splitlines()]
    except OSError as error:
        raise UnreadableError("file-unreadable", f"{named}: {type(error).__name__}") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    rate, length, n_leads = _record_line(lines[0] if lines else "", named)
    leads = [_signal_line(line, named) for line in lines[1 : 1 + n_leads]]
    if len(leads) != n_leads:
        raise UnreadableError("ecg-header-malformed", f"{named}: {len(leads)} of {n_leads} signal lines")
    names = {lead.file for lead in leads}
    files = {n: regular_file(inside(root, str(header.parent / n)), max_bytes=MAX_SIGNAL_BYTES) for n in names}
    frames = min(length, int(np.ceil(seconds * rate)))
    plain = all((lead.format, lead.per_frame, lead.skew) == ("16", 1, 0) for lead in leads)
    signal = _format_16(leads, files, length, frames) if plain else _by_wfdb(header, leads, frames)
    return Recording(
        rate=rate, names=tuple(lead.name for lead in leads), units=tuple(lead.unit for lead in leads), signal=signal
    )


def _record_line(line: str, named: str) -> tuple[float, int, int]:
    """Rate, samples a lead, leads; within the caps."""
    match = _RECORD.match(line)
    if match is None:
        raise UnreadableError("ecg-header-malformed", f"{named}: {line[:80]!r}")
    if match["segments"]:
        raise UnreadableError("ecg-multi-segment", named)
    rate, length, n_leads = float(match["rate"]), int(match["length"]), int(match["leads"])
    if not 1 <= n_leads <= MAX_LEADS:
        raise UnreadableError("ecg-lead-count", f"{named}: {n_leads} leads, at most {MAX_LEADS}")
    if not RATES[0] <= rate <= RATES[1]:
        raise UnreadableError("ecg-rate", f"{named}: {rate} Hz, outside {RATES}")
    if length < rate or length * n_leads > MAX_SAMPLES:
        raise UnreadableError("ecg-length", f"{named}: {length} samples a lead (at least 1 s)")
    return rate, length, n_leads


def _signal_line(line: str, named: str) -> Lead:
    """A lead, whose file must lie beside the header."""
    match = _SIGNAL.fullmatch(line)
    if match is None:
        raise UnreadableError("ecg-header-malformed", f"{named}: {line[:80]!r}")
    per_frame = int(match["per_frame"] or 1)
    if match["format"] not in FORMATS or not 1 <= per_frame <= MAX_PER_FRAME:
        raise UnreadableError("ecg-format", f"{named}: format {match['format']}x{per_frame} is not read")
    if Path(match["file"]).name != match["file"]:
        raise UnreadableError("path-outside-root", f"{named}: the header names {match['file']!r}")
    zero = int(match["zero"] or 0)
    return Lead(
        file=match["file"],
        format=match["format"],
        per_frame=per_frame,
        skew=int(match["skew"] or 0),
        start=int(match["start"] or 0),
        gain=float(match["gain"] or 0) or DEFAULT_GAIN,
        baseline=zero if match["baseline"] is None else int(match["baseline"]),
        unit=match["unit"] or "mV",
        name=(match["lead"] or "").strip(),
    )


def _format_16(leads: list[Lead], files: dict[str, Path], length: int, frames: int) -> NDArray[np.float64]:
    """Interleaved little-endian 16-bit samples, one group of leads a file."""
    signal = np.empty((frames, len(leads)))
    for name, file in files.items():
        columns = [i for i, lead in enumerate(leads) if lead.file == name]
        start, width = leads[columns[0]].start, len(columns)
        if (size := file.stat().st_size) < start + 2 * width * length:
            detail = f"{name} has {size} bytes, its header needs {start + 2 * width * length}"
            raise UnreadableError("ecg-signal-truncated", detail)
        digital = np.fromfile(file, dtype="<i2", count=frames * width, offset=start).reshape(frames, width)
        signal[:, columns] = np.where(digital == INVALID_16, np.nan, digital)
    return (signal - [lead.baseline for lead in leads]) / [lead.gain for lead in leads]


def _by_wfdb(header: Path, leads: list[Lead], frames: int) -> NDArray[np.float64]:
    if not all(lead.file.isascii() for lead in leads):
        raise UnreadableError("ecg-format", f"{header.name}: wfdb would drop letters of a file's name")
    try:
        record = wfdb.rdrecord(str(header.with_suffix("")), sampto=frames)
    except Exception as error:
        # wfdb raises whatever a malformed file leads to: a truncated one is a bare ValueError
        raise UnreadableError("ecg-signal-truncated", f"{header.name}: {type(error).__name__}: {error}") from error
    if record.p_signal is None:
        raise UnreadableError("no-usable-lead", f"{header.name}: no signal")
    return np.asarray(record.p_signal, dtype=np.float64)
