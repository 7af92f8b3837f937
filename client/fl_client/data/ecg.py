"""ECG files -> leads in mV on the study's grid.

Order of work: bounded read, lead names, mV, gaps, derived limb leads, band-pass, resampling, crop or pad. The
libraries alone would convert no units, drop leads whose name differs in case, and let one NaN spoil a filtered lead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from fl_client.data.ecg_dicom import read_dicom_ecg
from fl_client.data.ecg_edf import read_edf
from fl_client.data.ecg_recording import SUPPORTED, IsLead, Recording, format_of
from fl_client.data.ecg_signal import LIMB, MARGIN, Array, band_pass, check_amplitude, derive, fill_gaps, resample
from fl_client.data.findings import UnreadableError, inside
from fl_client.data.kinds import FileKind, Layout, Sample
from fl_client.data.wfdb_file import read_wfdb, wfdb_header
from fl_shared.site import WaveformFiles
from fl_shared.study import ModalityPlan

Resolve = Callable[[str], str | None]
"""Lead name as written -> standard name; None when it is none."""

TO_MV = {"mv": 1.0, "uv": 1e-3, "μv": 1e-3, "v": 1e3}  # casefold() makes one micro sign of Unicode's two
WFDB_SUFFIXES = (".hea", ".dat")

_PREFIX = re.compile(r"^(?:(?:ecg|ekg|lead|mdc_ecg_lead)[\s_:-]+)+")  # 'ECG aVR' of EDF+, 'Lead II' of DICOM


class Waveform:
    """Reads WFDB records, EDF(+) and DICOM ECG files, told apart by content; a `FileKind`.

    signal: (leads, T) float32 mV, zero in masked leads; lead_mask: (leads,) bool.
    """

    version = "2"

    def layout(self, plan: ModalityPlan) -> Layout:
        """Shapes and dtypes of one sample."""
        leads = len(plan.leads)
        return {"signal": ((leads, _length(plan)), "float32"), "lead_mask": ((leads,), "bool")}

    def files(self, root: Path, named: str, mapped: WaveformFiles) -> Sequence[Path]:
        """The file itself; of a WFDB record the header and the signal files that it names.

        Raises:
            UnreadableError: missing, outside ``root``, or in a format that is not read.
        """
        path, form = _find(root, named)
        if form is not None:
            return (path,)
        header = wfdb_header(root, named)
        return (header.path, *header.files.values())

    def read(self, root: Path, named: str, *, plan: ModalityPlan, mapped: WaveformFiles) -> Sample:
        """Decode and bring onto the study's grid.

        Raises:
            UnreadableError: with a code for counting and a detail that stays at the site.
        """
        resolve = _resolver(plan.leads, mapped.aliases)
        rate, seconds = float(plan.rate or 0), float(plan.seconds or 0)  # ModalityPlan lets no waveform lack them
        recording = _record(root, named, seconds=seconds + MARGIN, is_lead=lambda name: resolve(name) is not None)
        found, noted = _leads(recording, resolve, unit=mapped.unit)
        if not found:
            raise _unusable(recording, resolve, named)
        leads, gaps = fill_gaps(found, recording.rate)
        leads, derived = derive(leads, plan.leads)
        if not leads:
            raise UnreadableError("no-usable-lead", f"{named}: {', '.join(found)} are flat, gapped or not wanted")
        mask = np.array([name in leads for name in plan.leads])
        filtered = band_pass(np.stack([leads[name] for name in plan.leads if name in leads]), recording.rate)
        check_amplitude(filtered, named)
        signal = np.zeros((len(plan.leads), _length(plan)), dtype=np.float32)
        resampled = resample(filtered, recording.rate, rate)[:, : signal.shape[1]]
        signal[mask, : resampled.shape[1]] = resampled
        happened = {
            **noted,
            "short gap interpolated": gaps > 0,
            "limb leads derived from I and II": derived > 0,
            "lead masked": not mask.all(),
            "resampled": recording.rate != rate,
            "short record, padded with zeros": resampled.shape[1] < signal.shape[1],
        }
        repairs = (*recording.notes, *(name for name, did in happened.items() if did))
        return Sample(arrays={"signal": signal, "lead_mask": mask}, repairs=repairs)


WAVEFORM: FileKind = Waveform()


def _length(plan: ModalityPlan) -> int:
    return round((plan.rate or 0) * (plan.seconds or 0))


def _find(root: Path, named: str) -> tuple[Path, str | None]:
    """Where a name leads, and the format that the content there shows; None: a WFDB record by that name."""
    path = inside(root, named)
    if not path.is_file():
        return path, None
    form = format_of(path)
    if form is None and path.suffix not in WFDB_SUFFIXES and not inside(root, f"{named}.hea").is_file():
        raise UnreadableError("format-not-supported", f"{named}: its first bytes show no ECG format. {SUPPORTED}.")
    return path, form


def _record(root: Path, named: str, *, seconds: float, is_lead: IsLead) -> Recording:
    path, form = _find(root, named)
    if form == "edf":
        return read_edf(path, named, seconds=seconds, is_lead=is_lead)
    if form == "dicom":
        return read_dicom_ecg(path, named, seconds=seconds, is_lead=is_lead)
    return read_wfdb(root, named, seconds=seconds)


def _unusable(recording: Recording, resolve: Resolve, named: str) -> UnreadableError:
    detail = f"{named}: leads {', '.join(recording.names)} in {', '.join(map(repr, recording.units))}"
    if any(resolve(name) is not None for name in recording.names):
        return UnreadableError("ecg-unit-unknown", f"{detail}. Give unit = 'uV', 'mV' or 'V' in site.toml.")
    return UnreadableError("no-usable-lead", f"{detail}. Map them in [modalities.NAME.aliases] of site.toml.")


def _resolver(wanted: Sequence[str], aliases: Mapping[str, str]) -> Resolve:
    """Names by the site's aliases first, then by the standard ones, whatever their case and prefix."""
    standard = {name.casefold(): name for name in (*LIMB, "I", "II", *wanted)}
    known = {old.strip().casefold(): new.strip().casefold() for old, new in aliases.items()}

    def resolve(written: str) -> str | None:
        name = written.strip().casefold()
        return standard.get(known.get(name, _PREFIX.sub("", name)))

    return resolve


def _leads(recording: Recording, resolve: Resolve, *, unit: str | None) -> tuple[dict[str, Array], dict[str, bool]]:
    """Lead -> samples in mV, and what was noted; a lead in an unknown unit is left out, of two namesakes the second."""
    found: dict[str, Array] = {}
    noted = dict.fromkeys(
        ("lead name translated", "converted to mV", "lead in an unknown unit", "lead named twice"), False
    )
    for written, declared, samples in zip(recording.names, recording.units, recording.signal.T, strict=True):
        lead = resolve(written)
        factor = TO_MV.get((unit or declared).strip().casefold())
        if lead is None:
            continue
        if factor is None or lead in found:
            noted["lead in an unknown unit" if factor is None else "lead named twice"] = True
            continue
        noted["lead name translated"] |= lead != written
        noted["converted to mV"] |= factor != 1.0
        found[lead] = samples * factor
    return found, noted
