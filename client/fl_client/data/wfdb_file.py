"""Read the first seconds of a WFDB record, trusting nothing that its header says.

The header is parsed here (WFDB header(5)) before any library sees it: wfdb would open whatever path it names, drops
the micro sign of its units, and takes 15 ms a record. Format 16, which nearly every ECG has, is read here too
(tested equal to wfdb); wfdb reads the other uncompressed formats. The checksums of the header are verified.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_client.data.ecg_recording import Recording, check_size
from fl_client.data.findings import UnreadableError, inside, regular_file

MAX_HEADER_BYTES = 64 * 1024
MAX_SIGNAL_BYTES = 64 * 1024**2
MAX_PER_FRAME = 64
MAX_WHOLE = 5_000_000  # samples of all leads that wfdb reads whole, to verify their checksums
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
    r"(?:\s+\d+(?:\s+(?P<zero>-?\d{1,12})(?:\s+-?\d+(?:\s+(?P<checksum>-?\d{1,12})(?:\s+\d+"
    r"(?:\s+(?P<lead>.+))?)?)?)?)?)?)?\s*",
    re.ASCII,
)


@dataclass(frozen=True, kw_only=True)
class Lead:
    """One signal line of a header; checksum: the sum of all samples modulo 2^16."""

    file: str
    format: str
    per_frame: int
    skew: int
    start: int
    gain: float
    baseline: int
    unit: str
    checksum: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Header:
    """A parsed header: rate Hz, length in samples a lead, leads, and the files that it names."""

    path: Path
    rate: float
    length: int
    leads: tuple[Lead, ...]
    files: dict[str, Path]


def wfdb_header(root: Path, named: str) -> Header:
    """Parse the header of the record ``named`` (with or without its ``.hea`` or ``.dat``) under ``root``.

    Raises:
        UnreadableError: missing, malformed, beyond a bound, or leading out of ``root``.
    """
    # the header may be a symlink itself: it is resolved with its suffix
    path = regular_file(inside(root, re.sub(r"\.(?:hea|dat)$", "", named) + ".hea"), max_bytes=MAX_HEADER_BYTES)
    try:
        lines = [line.strip() for line in path.read_bytes().decode("utf-8", errors="replace").splitlines()]
    except OSError as error:
        raise UnreadableError("file-unreadable", f"{named}: {type(error).__name__}") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    rate, length, n_leads = _record_line(lines[0] if lines else "", named)
    leads = tuple(_signal_line(line, named) for line in lines[1 : 1 + n_leads])
    if len(leads) != n_leads:
        raise UnreadableError("ecg-header-malformed", f"{named}: {len(leads)} of {n_leads} signal lines")
    names = sorted({lead.file for lead in leads})
    files = {n: regular_file(inside(root, str(path.parent / n)), max_bytes=MAX_SIGNAL_BYTES) for n in names}
    return Header(path=path, rate=rate, length=length, leads=leads, files=files)


def read_wfdb(root: Path, named: str, *, seconds: float) -> Recording:
    """Read at most ``seconds`` of a record.

    Raises:
        UnreadableError: as `wfdb_header`; also shorter than its header says, or not what its checksums say.
    """
    header = wfdb_header(root, named)
    frames = min(header.length, int(np.ceil(seconds * header.rate)))
    plain = all((lead.format, lead.per_frame, lead.skew) == ("16", 1, 0) for lead in header.leads)
    try:
        signal = _format_16(header, frames) if plain else _by_wfdb(header, frames)
    except OSError as error:
        raise UnreadableError("file-unreadable", f"{named}: {type(error).__name__}") from error
    return Recording(
        rate=header.rate,
        names=tuple(lead.name for lead in header.leads),
        units=tuple(lead.unit for lead in header.leads),
        signal=signal,
    )


def _record_line(line: str, named: str) -> tuple[float, int, int]:
    """Rate, samples a lead, leads; within the caps."""
    match = _RECORD.match(line)
    if match is None:
        raise UnreadableError("ecg-header-malformed", f"{named}: {line[:80]!r}")
    if match["segments"]:
        mend = "Join its segments, e.g. with wfdb's rdrecord and wrsamp."
        raise UnreadableError("ecg-multi-segment", f"{named}. {mend}")
    rate, length, n_leads = float(match["rate"]), int(match["length"]), int(match["leads"])
    check_size(named, rate=rate, samples=length, leads=n_leads)
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
        unit=match["unit"] or "mV",  # header(5): millivolt when none is written
        checksum=int(match["checksum"] or 0) % 2**16,
        name=(match["lead"] or "").strip(),
    )


def _format_16(header: Header, frames: int) -> NDArray[np.float64]:
    """Interleaved little-endian 16-bit samples, one group of leads a file."""
    leads = header.leads
    signal = np.empty((frames, len(leads)))
    for name, file in header.files.items():
        columns = [i for i, lead in enumerate(leads) if lead.file == name]
        start, width = leads[columns[0]].start, len(columns)
        need = 2 * width * header.length
        if (size := file.stat().st_size) < start + need:
            raise UnreadableError("ecg-signal-truncated", f"{name} has {size} bytes, its header needs {start + need}")
        digital = np.fromfile(file, dtype="<i2", count=header.length * width, offset=start).reshape(-1, width)
        _verify(digital, [leads[i] for i in columns])
        signal[:, columns] = np.where(digital[:frames] == INVALID_16, np.nan, digital[:frames])
    return (signal - [lead.baseline for lead in leads]) / [lead.gain for lead in leads]


def _by_wfdb(header: Header, frames: int) -> NDArray[np.float64]:
    import wfdb  # slow to import and loud under pandas 3; few records need it

    path, leads = header.path, header.leads
    if not all(lead.file.isascii() for lead in leads):
        raise UnreadableError("ecg-format", f"{path.name}: wfdb would drop letters of a file's name")
    whole = header.length * sum(lead.per_frame for lead in leads) <= MAX_WHOLE
    try:
        record = wfdb.rdrecord(str(path.with_suffix("")), sampto=None if whole else frames, physical=False)
        digital, physical = record.d_signal, record.dac()
    except Exception as error:
        # wfdb raises whatever a malformed file leads to: a truncated one is a bare ValueError
        raise UnreadableError("ecg-signal-truncated", f"{path.name}: {type(error).__name__}: {error}") from error
    if whole and all((lead.per_frame, lead.skew) == (1, 0) for lead in leads):  # others are averaged or shifted
        _verify(digital, leads)
    return np.asarray(physical[:frames], dtype=np.float64)


def _verify(digital: NDArray[np.integer], leads: Sequence[Lead]) -> None:
    """Samples (all, leads) against the checksums of the header: a damaged file never passes for a sound one."""
    sums = digital.sum(axis=0, dtype=np.int64) % 2**16
    wrong = [lead.name for lead, total in zip(leads, sums, strict=True) if lead.checksum != total]
    if wrong and any(lead.checksum for lead in leads):  # some writers tell none
        raise UnreadableError(
            "ecg-checksum", f"{leads[0].file}: {', '.join(wrong)} are not what the header was written for"
        )
