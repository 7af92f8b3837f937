"""The best that any model can reach: discrimination of the true risk, kept apart from the site folders.

The true risk is that given the latent state, the planned length of stay and the dates of the visits (of a long stay,
without its plan): more than any reader of the files can know, so its AUROC is a bound from above.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from fl_shared.metrics.discrimination import auroc
from fl_shared.study import EvaluationPlan, is_held_out
from fl_sites.synthetic.outcomes import BINARY, COLUMNS, COURSE, EVENTS, LONG_STAY, MACCE
from fl_sites.synthetic.patients import LATENT
from fl_sites.synthetic.phenotypes import PHENOTYPES

TASK_LABELS = (
    ("death", "", "death"),
    *(("events", name, name) for name in EVENTS),
    *(("macce", name, name) for name in MACCE),
    ("cvd_90d", "", "cvd_90d"),
    ("in_hospital_death", "", "in_hospital_death"),
    *((name, "", name) for name in COURSE),
    ("long_stay", "", LONG_STAY),
    *(("phenotypes", name, f"phenotype_{name}") for name in PHENOTYPES),
)
"""(task, label as in ``results.json``, outcome) of every binary outcome; of a survival task, the event in a year."""


def write_truth(folder: Path, records: Mapping[str, pd.DataFrame], *, plan: EvaluationPlan) -> None:
    """Write ``<site>.csv`` (latent state, true risks, outcomes, one row a sample) and ``oracle.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    truth = {site: _truth(site, table, plan=plan) for site, table in records.items()}
    for site, table in truth.items():
        table.to_csv(folder / f"{site}.csv", index=False)
    body = {"synthetic": True, "salt": plan.salt, "oracle": [r for s, t in truth.items() for r in _rows(s, t)]}
    (folder / "oracle.json").write_text(json.dumps(body, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _truth(site: str, records: pd.DataFrame, *, plan: EvaluationPlan) -> pd.DataFrame:
    kept = ["patient_id", "sample_id", *LATENT, "gap", "stay", *(f"risk_{name}" for name in BINARY), *COLUMNS]
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
