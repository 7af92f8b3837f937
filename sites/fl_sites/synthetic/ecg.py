"""A 12-lead ECG as a sum of Gaussian waves, written as WFDB.

Waves after McSharry et al., A dynamical model for generating synthetic electrocardiogram signals, IEEE Trans Biomed
Eng 2003;50:289 (its P, Q, R, S, T Gaussians, plus one for the ST segment), with an amplitude for each lead. Limb
leads obey Einthoven and Goldberger exactly.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_sites.study_file import LEADS
from fl_sites.synthetic.hospitals import Hospital

RATE, SECONDS = 100, 10.0
Floats = NDArray[np.float64]

_TIME: Floats = np.arange(int(RATE * SECONDS)) / RATE
# waves:                      P      Q      R      S      ST    T
_OFFSET: Floats = np.array([-0.17, -0.034, 0.000, 0.034, 0.14, 0.28])  # seconds after R
_WIDTH: Floats = np.array([0.025, 0.012, 0.016, 0.012, 0.05, 0.05])  # standard deviation, seconds
_QRS = slice(1, 4)
QRS_DRAWN = 100.0
"""ms from the onset of Q to the end of S (1.5 standard deviations outside) of the waves above."""

_AMPLITUDE: Floats = np.array(  # mV, of the eight independent leads
    [
        [0.08, -0.05, 0.60, -0.10, 0.0, 0.20],  # I
        [0.12, -0.05, 0.90, -0.15, 0.0, 0.30],  # II
        [0.05, 0.00, 0.20, -0.90, 0.0, -0.05],  # V1
        [0.05, 0.00, 0.40, -1.20, 0.0, 0.40],  # V2
        [0.06, -0.02, 0.70, -0.90, 0.0, 0.45],  # V3
        [0.06, -0.05, 1.20, -0.50, 0.0, 0.40],  # V4
        [0.06, -0.08, 1.10, -0.25, 0.0, 0.30],  # V5
        [0.06, -0.08, 0.90, -0.10, 0.0, 0.25],  # V6
    ]
)
_INFERIOR: Floats = np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])
_ANTERIOR: Floats = np.array([0.2, 0.0, 0.3, 1.0, 1.0, 0.8, 0.3, 0.0])  # leads over a scar in front: its Q waves
_LATERAL: Floats = np.array([1.0, 0.6, -0.3, -0.1, 0.2, 0.8, 1.0, 1.0])  # how far a lead shows lateral strain


def draw_ecg(
    rng: np.random.Generator,
    hospital: Hospital,
    *,
    severity: float,
    rhythm: float,
    heart_rate: float,
    qrs: float = QRS_DRAWN,
    scar: float = 0.0,
    scar_angle: float = 0.0,
) -> Floats:
    """One record (1000, 12) in mV, leads in the order of `LEADS`.

    Args:
        rng: source of beats, noise and drift.
        hospital: gain, noise and drift of the machine.
        severity: depresses ST and inverts T laterally.
        rhythm: makes the beats irregular and ectopic, and takes the P wave away.
        heart_rate: beats a minute.
        qrs: duration of the QRS complex in ms.
        scar: share of the heart's circumference: deepens Q and takes R away, in the leads that look at it.
        scar_angle: where it lies; 0 to the left, pi/2 in front (towards the chest), in radians.
    """
    amplitude, width = _AMPLITUDE.copy(), _WIDTH.copy()
    amplitude[:, 0] *= 1 / (1 + np.exp(2.5 * (rhythm - 1)))
    amplitude[:, 4] -= 0.06 * severity * _LATERAL
    amplitude[:, 5] *= 1 - 0.35 * severity * np.abs(_LATERAL)
    seen = _ANTERIOR if np.sin(scar_angle) > 0 else _INFERIOR
    amplitude[:, 1] -= 1.2 * scar * seen
    amplitude[:, 2] *= 1 - scar * seen
    offset = _OFFSET * np.where([False, True, True, True, False, False], qrs / QRS_DRAWN, 1)
    width[_QRS] *= qrs / QRS_DRAWN
    beats, ectopic = _draw_beats(rng, rhythm=rhythm, heart_rate=heart_rate)
    signal = _waves(beats[~ectopic], amplitude, width, offset)
    wide, strange = width * [1, 2, 2, 2, 1, 1.3], amplitude * [0, 1, 1.4, 1.6, 1, -1.2]
    signal += _waves(beats[ectopic], strange, wide, offset)
    phase, frequency = rng.uniform(0, 2 * np.pi, (8, 1)), rng.uniform(0.1, 0.35, (8, 1))
    signal = hospital.gain * signal + hospital.drift * np.sin(2 * np.pi * frequency * _TIME + phase)
    return _twelve_leads(signal + rng.normal(0, hospital.noise, signal.shape))


def write_ecg(folder: Path, name: str, signal: Floats, *, unit: str) -> None:
    """Write ``folder/name.hea`` and ``.dat``: WFDB format 16, 1 µV a digit; ``unit`` of the header is mV or uV.

    Own code, since ``wfdb.wrsamp`` takes 60 ms a record; the tests read the files with wfdb.
    """
    digits = np.round(signal * 1000).clip(-32767, 32767).astype("<i2")
    gain = {"mV": 1000, "uV": 1}[unit]
    lines = [f"{name} {len(LEADS)} {RATE} {len(digits)}"]
    for lead, column in zip(LEADS, digits.T, strict=True):
        checksum = int(column.sum(dtype=np.int64)) % 65536
        lines.append(f"{name}.dat 16 {gain}(0)/{unit} 16 0 {column[0]} {checksum} 0 {lead}")
    (folder / f"{name}.hea").write_text("\n".join([*lines, "# synthetic"]) + "\n", encoding="ascii")
    (folder / f"{name}.dat").write_bytes(digits.tobytes())


def _draw_beats(rng: np.random.Generator, *, rhythm: float, heart_rate: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Times of the R peaks in seconds, and which are ectopic (early, with a pause after)."""
    mean = 60.0 / heart_rate
    count = int(SECONDS / mean * 2) + 4
    irregular = np.log1p(np.exp(1.5 * rhythm))  # softplus: regular below 0
    interval = mean * np.clip(rng.normal(1, 0.02 + 0.05 * irregular, count), 0.5, 1.6)
    ectopic = rng.random(count) < 0.03 * irregular
    beats = np.cumsum(interval) - rng.uniform(0, 1) * mean
    return beats - np.where(ectopic, 0.35 * interval, 0.0), ectopic


def _waves(beats: Floats, amplitude: Floats, width: Floats, offset: Floats) -> Floats:
    """Waves (8, 1000) of the beats (R peaks, seconds): every wave of every beat is a Gaussian."""
    centre = beats[:, None, None] + offset[:, None]
    basis = np.exp(-0.5 * ((_TIME - centre) / width[:, None]) ** 2).sum(axis=0)
    return np.asarray(amplitude @ basis)


def _twelve_leads(signal: Floats) -> Floats:
    """Leads I, II, V1-V6 (8, T) -> all twelve (T, 12): III = II - I, aVR = -(I + II)/2, aVL = (I - III)/2, …"""
    one, two, chest = signal[0], signal[1], signal[2:]
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.stack([*limb, *chest], axis=1)
