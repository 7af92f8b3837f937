"""A small hospital written on the spot: real files, real traps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from fl_shared.site import Site, load_site
from fl_shared.study import Study

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]

SITE = """
schema = 1
name = "drum_tower"
timezone = "Asia/Shanghai"
{extra}
[columns.Alter]
concept = "age"
[columns.Geschlecht]
concept = "sex"
codes = {{ m = 0, w = 1 }}
[columns.Krea]
concept = "creatinine"
unit = "mg/dL"
[modalities.ecg]
kind = "waveform"
column = "ecg_path"
[modalities.ehr]
kind = "table"
[modalities.text]
kind = "text"
column = "text_path"
[tasks.death]
columns = {{ value = "tot" }}
codes = {{ "0" = 0, "1" = 1, ja = 1, nein = 0 }}
"""


@pytest.fixture
def write_ecg() -> Callable[..., str]:
    """Write a WFDB record of smooth, distinct leads; returns its name."""

    def write(
        folder: Path,
        name: str = "r1",
        *,
        fs: int = 500,
        seconds: float = 10.0,
        leads: list[str] = LEADS,
        unit: str = "mV",
        gain: float = 1000.0,
        fmt: str = "16",
        signal: np.ndarray | None = None,
    ) -> str:
        t = np.arange(round(fs * seconds)) / fs
        waves = [np.sin(2 * np.pi * (1.0 + 0.5 * k) * t) + 0.2 * np.sin(2 * np.pi * 10 * t) for k in range(len(leads))]
        x = np.stack(waves, 1) if signal is None else signal
        n = x.shape[1]
        folder.mkdir(parents=True, exist_ok=True)
        wfdb.wrsamp(
            name, fs=fs, units=[unit] * n, sig_name=leads, p_signal=x, fmt=[fmt] * n,
            adc_gain=[gain] * n, baseline=[0] * n, write_dir=str(folder),
        )  # fmt: skip
        return name

    return write


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[..., Site]:
    """Write ``site.toml`` and ``samples.csv`` into tmp_path and load them."""

    def make(
        rows: list[dict[str, Any]], *, extra: str = "", encoding: str = "utf-8", toml: str = SITE, drop: str = ""
    ) -> Site:
        columns = ["patient_id", "sample_id", "index_time", "Alter", "Geschlecht", "Krea"]
        columns += ["ecg_path", "text_path", "tot"]
        columns = [c for c in columns if c != drop]
        base = {"index_time": "2020-01-01 10:00", "Alter": "60", "Geschlecht": "m", "Krea": "1.0", "tot": "0"}
        table = [",".join(columns)] + [",".join(str((base | row).get(c, "")) for c in columns) for row in rows]
        (tmp_path / "samples.csv").write_bytes(("\n".join(table) + "\n").encode(encoding))
        (tmp_path / "site.toml").write_text(toml.format(extra=extra), encoding="utf-8")
        return load_site(tmp_path)

    return make


@pytest.fixture
def study() -> Study:
    return make_study()


def make_study(**changes: Any) -> Study:
    body: dict[str, Any] = {
        "schema": 1,
        "name": "prognosis",
        "seed": 1,
        "sites": {"drum_tower": {"role": "train", "patients": 10}},
        "tasks": {"death": {"type": "binary"}},
        "modalities": {
            "ecg": {"kind": "waveform", "leads": LEADS, "rate": 100, "seconds": 4},
            "ehr": {"kind": "table", "fields": ["age", "sex", "creatinine"]},
            "text": {"kind": "text", "max_tokens": 64},
        },
        "training": {"rounds": 1, "steps": 1, "batch": 2},
        "privacy": {"mode": "none"},
        "rounds": {"quorum": 1},
        "evaluation": {"salt": "salt and pepper"},
    }
    return Study.model_validate(body | changes)
