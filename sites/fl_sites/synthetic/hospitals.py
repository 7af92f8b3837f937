"""How synthetic hospitals differ: language, files, units, equipment, patients. Four kinds, taken in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """One kind of hospital.

    gain, noise (mV), drift (mV): the site shift of its ECG machine; severity: mean of the latent severity, which
    shifts the prevalence; missing: share of samples without a modality, and of values without a laboratory result.
    """

    language: str
    encoding: str
    timezone: str
    male: str
    female: str
    ecg_unit: str = "mV"
    gain: float = 1.0
    noise: float = 0.02
    drift: float = 0.05
    severity: float = 0.0
    missing: Mapping[str, float]
    units: Mapping[str, str] = field(default_factory=dict)  # concept -> unit in the file, where it is not the concept's


HOSPITALS = (
    Hospital(
        language="de",
        encoding="utf-8",
        timezone="Europe/Berlin",
        male="m",
        female="w",
        missing={"ecg": 0.05, "text": 0.10, "laboratory": 0.05},
        units={"creatinine": "mg/dL", "haemoglobin": "g/dL", "nt_probnp": "pg/mL"},
    ),
    Hospital(
        language="zh",
        encoding="gb18030",
        timezone="Asia/Shanghai",
        male="男",
        female="女",
        ecg_unit="uV",
        gain=0.8,
        noise=0.03,
        drift=0.10,
        severity=0.3,
        missing={"ecg": 0.10, "text": 0.25, "laboratory": 0.15},
    ),
    Hospital(
        language="en",
        encoding="utf-8",
        timezone="Europe/London",
        male="M",
        female="F",
        gain=1.2,
        noise=0.015,
        drift=0.02,
        severity=-0.2,
        missing={"ecg": 0.02, "text": 0.05, "laboratory": 0.10},
        units={"lvef": "1"},
    ),
    Hospital(
        language="zh",
        encoding="utf-8",
        timezone="Asia/Shanghai",
        male="男性",
        female="女性",
        gain=0.9,
        noise=0.04,
        drift=0.15,
        severity=0.2,
        missing={"ecg": 0.15, "text": 0.20, "laboratory": 0.20},
        units={"creatinine": "mmol/L"},
    ),
)
