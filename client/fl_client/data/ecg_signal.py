"""What is done to the leads of an ECG: gaps, derived limb leads, band-pass, resampling, a look at the amplitude."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, resample_poly, sosfiltfilt

from fl_client.data.findings import UnreadableError

Array = NDArray[np.float64]

MARGIN = 2.0  # seconds read and mirrored beyond the window, so that the filter's edges fall outside
MAX_GAP = 0.2  # seconds interpolated
BAND = (0.5, 40.0)  # Hz
PLAUSIBLE_SD = (1e-3, 10.0)  # mV, of the strongest lead
LIMB = {"III": (-1.0, 1.0), "aVR": (-0.5, -0.5), "aVL": (1.0, -0.5), "aVF": (-0.5, 1.0)}
"""Einthoven and Goldberger: coefficients of I and II."""


def fill_gaps(leads: Mapping[str, Array], rate: float) -> tuple[dict[str, Array], int]:
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


def derive(leads: Mapping[str, Array], wanted: tuple[str, ...]) -> tuple[dict[str, Array], int]:
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
    """Polyphase resampling of the last axis from ``rate`` to ``to`` Hz."""
    ratio = (Fraction(to) / Fraction(rate)).limit_denominator(10_000)
    return signal if ratio == 1 else np.asarray(resample_poly(signal, ratio.numerator, ratio.denominator, axis=-1))


def check_amplitude(signal: Array, named: str) -> None:
    """Refuse what no heart gives: the unit is wrong then.

    Raises:
        UnreadableError: the strongest lead's standard deviation lies outside `PLAUSIBLE_SD`.
    """
    spread = float(signal.std(axis=-1).max())
    if not PLAUSIBLE_SD[0] <= spread <= PLAUSIBLE_SD[1]:
        unit = "uV" if spread > 1 else "V"
        raise UnreadableError("ecg-amplitude-implausible", f"{named}: SD {spread:.3g} mV. Is the unit {unit}?")
