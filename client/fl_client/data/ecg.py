"""WFDB records -> leads in mV on the study's grid.

Order of work: bounded read, lead names, mV, gaps, derived limb leads, band-pass, resampling, crop or pad. wfdb alone
would convert no units, drop leads whose name differs in case, and let one NaN spoil a filtered lead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, resample_poly, sosfiltfilt

from fl_client.data.findings import UnreadableError
from fl_client.data.wfdb_file import Recording, read_wfdb
from fl_shared.site import FileModality
from fl_shared.study import ModalityPlan

Array = NDArray[np.float64]

TO_MV = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3}  # both micro signs of Unicode
MARGIN = 2.0  # seconds read and mirrored beyond the window, so that the filter's edges fall outside
MAX_GAP = 0.2  # seconds interpolated
BAND = (0.5, 40.0)  # Hz
PLAUSIBLE_SD = (1e-3, 10.0)  # mV, of the strongest lead
LIMB = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}
"""Einthoven and Goldberger: coefficients of I and II."""


@dataclass(frozen=True, kw_only=True)
class Ecg:
    """signal (leads, T) float32 mV, zero in masked leads; lead_mask (leads,) bool; what was repaired."""

    signal: NDArray[np.float32]
    lead_mask: NDArray[np.bool_]
    repairs: tuple[str, ...] = ()


def read_ecg(root: Path, named: str, *, plan: ModalityPlan, site: FileModality) -> Ecg:
    """Read the record ``named`` (with or without ``.hea`` or ``.dat``) under ``root``.

    Raises:
        UnreadableError: with a code for counting and a detail that stays at the site.
    """
    rate, seconds = float(plan.rate or 0), float(plan.seconds or 0)  # ModalityPlan lets no waveform lack them
    recording = read_wfdb(root, named, seconds=seconds + MARGIN)
    leads, gaps = _fill_gaps(_leads(recording, plan.leads, site), recording.rate)
    leads, derived = _derive(leads, plan.leads)
    if not leads:
        raise UnreadableError("no-usable-lead", f"{named}: {recording.names} in {recording.units}")
    mask = np.array([name in leads for name in plan.leads])
    filtered = band_pass(np.stack([leads[name] for name in plan.leads if name in leads]), recording.rate)
    _check_amplitude(filtered, named)
    signal = np.zeros((len(plan.leads), round(rate * seconds)), dtype=np.float32)
    resampled = resample(filtered, recording.rate, rate)[:, : signal.shape[1]]
    signal[mask, : resampled.shape[1]] = resampled
    happened = {
        "short gap interpolated": gaps > 0,
        "limb leads derived from I and II": derived > 0,
        "lead masked": not mask.all(),
        "resampled": recording.rate != rate,
        "short record, padded with zeros": resampled.shape[1] < signal.shape[1],
    }
    return Ecg(signal=signal, lead_mask=mask, repairs=tuple(name for name, did in happened.items() if did))


def _leads(recording: Recording, wanted: tuple[str, ...], site: FileModality) -> dict[str, Array]:
    """Wanted lead (and I, II) -> samples in mV; a lead in an unknown unit is left out, of two namesakes the second."""
    standard = {name.casefold(): name for name in (*LIMB, "I", "II", *wanted)}
    aliases = {old.strip().casefold(): new.casefold() for old, new in site.aliases.items()}
    found: dict[str, Array] = {}
    for written, unit, samples in zip(recording.names, recording.units, recording.signal.T, strict=True):
        name = written.casefold()
        lead = standard.get(aliases.get(name, name))
        factor = TO_MV.get((site.unit or unit).casefold())
        if lead is not None and factor is not None and lead not in found:
            found[lead] = samples * factor
    return found


def _fill_gaps(leads: Mapping[str, Array], rate: float) -> tuple[dict[str, Array], int]:
    """Interpolate runs of NaN up to `MAX_GAP`; leave out leads with longer ones, and flat ones."""
    kept: dict[str, Array] = {}
    filled = 0
    for name, x in leads.items():
        bad = ~np.isfinite(x)
        if bad.any():
            edges = np.flatnonzero(np.diff(np.concatenate(([False], bad, [False]))))
            if (edges[1::2] - edges[::2]).max() > MAX_GAP * rate:
                continue
            good = np.flatnonzero(~bad)
            x = np.interp(np.arange(x.size), good, x[good])
            filled += 1
        if np.ptp(x) > 0:
            kept[name] = x
    return kept, filled


def _derive(leads: Mapping[str, Array], wanted: tuple[str, ...]) -> tuple[dict[str, Array], int]:
    """The wanted leads that are there, and limb leads from I and II in place of those that are not."""
    kept = {name: x for name, x in leads.items() if name in wanted}
    if not {"I", "II"} <= leads.keys():
        return kept, 0
    absent = [name for name in LIMB if name in wanted and name not in kept]
    return kept | {name: LIMB[name][0] * leads["I"] + LIMB[name][1] * leads["II"] for name in absent}, len(absent)


@lru_cache(maxsize=32)
def _sections(rate: float) -> Array:
    high = min(BAND[1], 0.45 * rate)  # below the Nyquist frequency of slow records
    return np.asarray(butter(2, (BAND[0], high), btype="bandpass", fs=rate, output="sos"))


def band_pass(signal: Array, rate: float) -> Array:
    """Zero-phase Butterworth 0.5-40 Hz over the last axis (order 2, run both ways).

    Mirrored by `MARGIN` at both ends: scipy's few samples leave the slow edge transient of 0.5 Hz in the signal.
    """
    pad = min(signal.shape[-1] - 1, round(MARGIN * rate))
    return np.asarray(sosfiltfilt(_sections(rate), signal, axis=-1, padlen=pad))


def resample(signal: Array, rate: float, to: float) -> Array:
    """Polyphase resampling of the last axis."""
    ratio = (Fraction(to) / Fraction(rate)).limit_denominator(10_000)
    return signal if ratio == 1 else np.asarray(resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1))


def _check_amplitude(signal: Array, named: str) -> None:
    spread = float(signal.std(axis=-1).max())
    if not PLAUSIBLE_SD[0] <= spread <= PLAUSIBLE_SD[1]:
        unit = "uV" if spread > 1 else "V"
        raise UnreadableError("ecg-amplitude-implausible", f"{named}: SD {spread:.3g} mV. Is the unit {unit}?")
