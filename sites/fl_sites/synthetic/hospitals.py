"""How synthetic hospitals differ: language, files, units, equipment, patients. Four kinds, taken in turn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """A magnetic resonance scanner and its way of writing a stack of ``slices`` x ``phases``.

    syntax: classic images, uncompressed or compressed, or one Enhanced multi-frame file; tesla: field strength;
    spacing: mm a pixel; gap: mm between slice centres; noise: standard deviation of the intensity (blood is 900);
    by_phase: images are numbered phase after phase, not slice after slice.
    """

    syntax: Literal["explicit", "jpeg2000", "enhanced", "jpegls"]
    maker: str
    tesla: float
    rows: int
    columns: int
    spacing: float
    slices: int
    gap: float
    phases: int
    noise: float
    by_phase: bool = False


@dataclass(frozen=True, kw_only=True)
class Hospital:
    """One kind of hospital.

    gain, noise (mV), drift (mV): the site shift of its ECG machine; severity: mean of the latent severity, which
    shifts the prevalence; missing: share of samples without a modality, and of values without a laboratory result;
    most patients have no cine. first_id: of its patients, who are numbered; codes: concept -> the hospital's code in
    its series of measurements.
    """

    language: str
    encoding: str
    timezone: str
    male: str
    female: str
    first_id: str = "000001"
    ecg_unit: str = "mV"
    gain: float = 1.0
    noise: float = 0.02
    drift: float = 0.05
    severity: float = 0.0
    missing: Mapping[str, float]
    scanner: Scanner
    units: Mapping[str, str] = field(default_factory=dict)  # concept -> unit in the file, where it is not the concept's
    codes: Mapping[str, str]


_LOINC = {
    "sbp": "LOINC//8480-6",
    "heart_rate": "LOINC//8867-4",
    "respiratory_rate": "LOINC//9279-1",
    "spo2": "LOINC//2708-6",
    "temperature": "LOINC//8310-5",
    "creatinine": "LOINC//2160-0",
    "nt_probnp": "LOINC//33762-6",
    "sodium": "LOINC//2951-2",
    "potassium": "LOINC//2823-3",
    "haemoglobin": "LOINC//718-7",
    "troponin": "LOINC//67151-1",
    "crp": "LOINC//1988-5",
    "glucose": "LOINC//2345-7",
    "lactate": "LOINC//2524-7",
}
_GERMAN = ("RR_SYS", "HF", "AF", "SAUERSTOFF", "TEMP", "KREA", "NTBNP", "NA", "K", "HB", "TNT", "CRP", "GLUC", "LAC")
_CHINESE = (
    *("收缩压", "心率", "呼吸频率", "血氧饱和度", "体温", "肌酐", "NT-proBNP", "钠", "钾", "血红蛋白", "肌钙蛋白T"),
    *("C反应蛋白", "葡萄糖", "乳酸"),
)

HOSPITALS = (
    Hospital(
        language="de",
        encoding="utf-8",
        timezone="Europe/Berlin",
        male="m",
        female="w",
        missing={"ecg": 0.05, "text": 0.10, "laboratory": 0.05, "cine": 0.60},
        units={"creatinine": "mg/dL", "haemoglobin": "g/dL", "nt_probnp": "pg/mL", "glucose": "mg/dL"},
        codes=dict(zip(_LOINC, _GERMAN, strict=True)),
        scanner=Scanner(
            syntax="explicit", maker="A", tesla=1.5, rows=64, columns=64, spacing=2.4,
            slices=4, gap=20.0, phases=12, noise=18,
        ),
    ),
    Hospital(
        language="zh",
        encoding="gb18030",
        timezone="Asia/Shanghai",
        male="男",
        female="女",
        first_id="200001",
        ecg_unit="uV",
        gain=0.8,
        noise=0.03,
        drift=0.10,
        severity=0.3,
        missing={"ecg": 0.10, "text": 0.25, "laboratory": 0.15, "cine": 0.75},
        codes=dict(zip(_LOINC, _CHINESE, strict=True)),
        scanner=Scanner(
            syntax="jpeg2000", maker="B", tesla=3.0, rows=72, columns=60, spacing=2.3,
            slices=5, gap=16.0, phases=12, noise=25, by_phase=True,
        ),
    ),
    Hospital(
        language="en",
        encoding="utf-8",
        timezone="Europe/London",
        male="M",
        female="F",
        first_id="100001",
        gain=1.2,
        noise=0.015,
        drift=0.02,
        severity=-0.2,
        missing={"ecg": 0.02, "text": 0.05, "laboratory": 0.10, "cine": 0.60},
        units={"lvef": "1", "temperature": "[degF]", "troponin": "ng/mL"},
        codes=_LOINC,
        scanner=Scanner(
            syntax="enhanced", maker="C", tesla=1.5, rows=64, columns=64, spacing=2.5,
            slices=6, gap=14.0, phases=14, noise=15,
        ),
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
        missing={"ecg": 0.15, "text": 0.20, "laboratory": 0.20, "cine": 0.80},
        units={"creatinine": "mmol/L"},
        codes=_LOINC,
        scanner=Scanner(
            syntax="jpegls", maker="D", tesla=3.0, rows=56, columns=56, spacing=2.8,
            slices=5, gap=17.0, phases=10, noise=30,
        ),
    ),
)  # fmt: skip
