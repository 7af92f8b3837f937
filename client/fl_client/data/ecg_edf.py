"""Read the first seconds of an EDF or EDF+ recording (Kemp et al. 1992, Kemp and Olivan 2003).

pyedflib decodes; what its C library would allocate and read is checked first. `wfdb.io.convert.edf` is no choice: it
fails on EDF+ annotations, is off by up to two digital steps and averages the faster of two signals.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from threading import Lock

import numpy as np
import pyedflib

from fl_client.data.ecg_recording import MAX_LEADS, IsLead, Recording, check_size
from fl_client.data.findings import UnreadableError, regular_file

MAX_BYTES = 512 * 1024**2  # a day of 12 leads at 250 Hz
_FIXED, _EACH = 256, 256  # bytes of the header, and of each signal's part
_ONE_FILE = Lock()  # the library refuses to open a file twice at a time


def read_edf(path: Path, named: str, *, seconds: float, is_lead: IsLead) -> Recording:
    """Read at most ``seconds`` of the wanted leads; of leads with different rates those of the commonest.

    Raises:
        UnreadableError: malformed, beyond a bound, truncated, interrupted (EDF+D), naming the patient, or no lead.
    """
    regular_file(path, max_bytes=MAX_BYTES)
    try:
        _check_header(path, named)
        with _ONE_FILE, pyedflib.EdfReader(str(path), annotations_mode=pyedflib.DO_NOT_READ_ANNOTATIONS) as file:
            return _decode(file, named, seconds=seconds, is_lead=is_lead)
    except (OSError, ValueError, IndexError) as error:
        told = str(error).rpartition(": ")[2]
        raise UnreadableError("ecg-header-malformed", f"{named}: {told}. Repair it, e.g. with EDFbrowser.") from error


def _decode(file: pyedflib.EdfReader, named: str, *, seconds: float, is_lead: IsLead) -> Recording:
    labels = [label.strip() for label in file.getSignalLabels()]
    chosen = [k for k, label in enumerate(labels) if is_lead(label)]
    if not chosen:
        raise UnreadableError(
            "no-usable-lead", f"{named}: {labels}. Map them in [modalities.NAME.aliases] of site.toml."
        )
    rates = {k: float(file.getSampleFrequency(k)) for k in chosen}
    often = Counter(rates.values())
    rate = max(often, key=lambda r: (often[r], r))
    chosen = [k for k in chosen if rates[k] == rate]
    length = min(int(file.samples_in_file(k)) for k in chosen)
    count = min(length, int(np.ceil(seconds * rate)))
    check_size(named, rate=rate, samples=count, leads=len(chosen))
    return Recording(
        rate=rate,
        names=tuple(labels[k] for k in chosen),
        units=tuple(file.getPhysicalDimension(k).strip() for k in chosen),
        signal=np.stack([file.readSignal(k, 0, count) for k in chosen], axis=1),
    )


def _check_header(path: Path, named: str) -> None:
    """Sizes against the file's, before the library trusts them; no interrupted recording; nobody's name."""
    with path.open("rb") as file:
        fixed = file.read(_FIXED).decode("latin-1")
        signals, records = _whole(fixed[252:256], named), _whole(fixed[236:244], named)
        if not 1 <= signals <= MAX_LEADS:
            raise UnreadableError("ecg-lead-count", f"{named}: {signals} signals, 1 to {MAX_LEADS} are read")
        each = file.read(_EACH * signals).decode("latin-1")
    start = 216 * signals  # behind labels, transducers, units, ranges and filters
    counts = [_whole(each[start + 8 * k : start + 8 * k + 8], named) for k in range(signals)]
    if fixed[192:197] == "EDF+D":
        raise UnreadableError("ecg-interrupted", f"{named}: EDF+D. Convert it to EDF+C, e.g. with EDFbrowser.")
    if records < 1 or min(counts) < 1:
        raise UnreadableError("ecg-length", f"{named}: {records} data records of {counts} samples")
    need = _FIXED + _EACH * signals + 2 * records * sum(counts)
    if (size := path.stat().st_size) < need:
        raise UnreadableError("ecg-signal-truncated", f"{named} has {size} bytes, its header needs {need}")
    _check_identity(fixed[8:88].split(), named, plus=fixed[192:196] == "EDF+")


def _check_identity(patient: list[str], named: str, *, plus: bool) -> None:
    """EDF+ writes code, sex, birth date and name, ``X`` for what is left out; EDF writes free text: a code passes."""
    told = patient[2:] if plus else patient
    code = not plus and len(told) == 1 and any(letter.isdigit() for letter in told[0])
    if not code and any(word != "X" for word in told):
        mend = "De-identify the file: 'X X X X' in the patient field of its header."
        raise UnreadableError("identity-name", f"{named}: the header holds the patient's name or birth date. {mend}")


def _whole(text: str, named: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.removeprefix("-").isdigit()):
        raise UnreadableError("ecg-header-malformed", f"{named}: {text!r} is no number")
    return int(digits)
