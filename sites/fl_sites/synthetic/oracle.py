"""The best that any model can reach: discrimination of the true risk, kept apart from the site folders."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fl_shared.metrics.discrimination import auroc
from fl_shared.study import EvaluationPlan, is_held_out
from fl_sites.synthetic.patients import OUTCOMES

TASK_LABELS = (
    ("death", "", "death"),
    ("events", "decompensation", "decompensation"),
    ("events", "arrhythmia", "arrhythmia"),
)
"""(task, label as in ``results.json``, outcome)."""


def write_truth(folder: Path, records: Mapping[str, pd.DataFrame], *, plan: EvaluationPlan) -> None:
    """Write ``<site>.csv`` (latent state, true risks, outcomes, one row a sample) and ``oracle.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = {site: _truth(site, table, plan=plan) for site, table in records.items()}
    for site, table in truth.items():
        table.to_csv(folder / f"{site}.csv", index=False)
    body = {"synthetic": True, "salt": plan.salt, "oracle": [r for s, t in truth.items() for r in _rows(s, t)]}
    (folder / "oracle.json").write_text(json.dumps(body, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _truth(site: str, records: pd.DataFrame, *, plan: EvaluationPlan) -> pd.DataFrame:
    kept = ["patient_id", "sample_id", "severity", "rhythm", *(f"risk_{name}" for name in OUTCOMES), *OUTCOMES]
    held_out = [is_held_out(patient, site=site, plan=plan) for patient in records["patient_id"]]
    return records[kept].assign(held_out=np.array(held_out, dtype=int))


def _rows(site: str, truth: pd.DataFrame) -> Iterator[dict[str, object]]:
    """AUROC of the true risk against the drawn outcome over samples, of all patients and of the held-out ones."""
    for patients, table in (("all", truth), ("held_out", truth[truth["held_out"] == 1])):
        for task, label, outcome in TASK_LABELS:
            value = auroc(table[f"risk_{outcome}"].to_numpy(), table[outcome].to_numpy())
            yield {
                "site": site,
                "task": task,
                "label": label,
                "patients": patients,
                "auroc": None if math.isnan(value) else value,
                "n": len(table),
                "events": int(table[outcome].sum()),
            }
