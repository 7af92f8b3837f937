"""How the PTB-XL demonstration's settings were fixed: on held-out patients of sites 0-2 only, site 3 is never read.

Runs FedAvg in one process over the product's own trainers (no sockets, no noise) for each candidate and several
salts (each holds out another fifth), and prints the mean macro AUROC (NORM, MI, STTC, CD) over sites 0 and 1 of the
ECG alone, of ECG + EHR (headline) and of all modalities. Site 2 has too few held-out patients for a metric.

    python tests/benchmarks/ptbxl_settings.py --from DIR [--candidates name,…] [--salts 2]
"""

from __future__ import annotations

import argparse
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from fl_client.data.load import load_cohort
from fl_client.training.loop import Trainer
from fl_server.aggregation import aggregate
from fl_shared.accounting import plan_sigma
from fl_shared.models.build import build_model, select
from fl_shared.site import load_site
from fl_shared.study import Study, is_held_out, load_study
from fl_sites.importers.ptb_xl import import_ptb_xl

CANDIDATES: dict[str, dict[str, dict[str, object]]] = {
    "hidden_text": {},  # as the importer writes it
    "shared": {"model": {"modality_dropout": 0.2}, "training": {"rounds": 5, "learning_rate": 2e-3}},
    "drop6": {"model": {"modality_dropout": 0.6}, "training": {"rounds": 5, "learning_rate": 2e-3}},
    "drop6_long": {"model": {"modality_dropout": 0.6}, "training": {"learning_rate": 2e-3}},
    "local": {
        "model": {"modality_dropout": 0.2},
        "training": {"encoders": "local", "rounds": 5, "learning_rate": 2e-3},
    },
}
PLAIN_TEXT = {"shared", "drop6", "drop6_long", "local"}  # text hidden no more often than the others
LABELS = ("NORM", "MI", "STTC", "CD")


def variant(study: Study, changes: dict[str, dict[str, object]], salt: str, ids: dict[str, set[str]]) -> Study:
    body = study.model_dump(mode="json", by_alias=True, exclude_none=True)
    body["privacy"] = {"mode": "none"}
    body["evaluation"] |= {"salt": salt, "bootstrap": 100, "min_patients": 5}
    for section, values in changes.items():
        body[section] |= values
    made = Study.model_validate(body)
    for name in made.train_sites:
        body["sites"][name]["patients"] = sum(not is_held_out(p, site=name, plan=made.evaluation) for p in ids[name])
    return Study.model_validate(body)


def make(study: Study, sites: Path, scratch: Path, name: str) -> Trainer:
    site = load_site(sites / name).model_copy(update={"state": (scratch / name).resolve()})
    return Trainer(study=study, site=site, cohort=load_cohort(site, study)[0])


@lru_cache
def _planned(q: float, steps: int, epsilon: float, delta: float) -> float:
    return plan_sigma(q=q, steps=steps, epsilon=epsilon, delta=delta)


def sigma(study: Study, name: str) -> float | None:
    """The noise multiplier that the site's ledger would hold; None without privacy."""
    plan, privacy = study.training, study.privacy
    if privacy.epsilon is None:
        return None
    return _planned(study.sampling_rate(name), plan.rounds * plan.steps, privacy.epsilon, privacy.delta)


def run(study: Study, sites: Path, scratch: Path, *, judges: Sequence[str] = ("site_0", "site_1")) -> dict[str, float]:
    """Train on sites 0-2; the mean over the judging sites of each input's macro AUROC."""
    trainers = {name: make(study, sites, scratch, name) for name in study.train_sites}
    state: dict[str, object] = {}
    shared = select(build_model(study), study.is_shared)
    for number in range(1, study.training.rounds + 1):
        updates = {n: t.train(round=number, base=shared, sigma=sigma(study, n)) for n, t in trainers.items()}
        shared, state = aggregate(study=study, round_number=number, base=shared, updates=updates, state=state)
    if study.training.encoders == "local":
        weights = {n: study.sites[n].patients for n in trainers}
        mine = {n: t.encoders() for n, t in trainers.items()}
        total = sum(weights.values())
        names = next(iter(mine.values()))
        shared |= {k: np.float32(sum(weights[n] * mine[n][k].astype(float) for n in mine) / total) for k in names}
    found: dict[str, list[float]] = {}
    for name in judges:
        judge = trainers.get(name) or make(study, sites, scratch, name)
        rows = judge.evaluate(arrays=shared).evaluation
        for row in rows:
            if row.metric == "auroc" and row.label in LABELS and row.value is not None:
                found.setdefault(row.modalities, []).append(row.value)
    return {inputs: float(np.mean(values)) for inputs, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--candidates", default=",".join(CANDIDATES))
    parser.add_argument("--salts", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        study = load_study(import_ptb_xl(args.source, root / "sites").study)
        shutil.rmtree(root / "sites" / "site_3")  # what is not there cannot be looked at
        ids = {
            name: set(load_cohort(load_site(root / "sites" / name), study)[0].patient_ids) for name in study.train_sites
        }
        for name in args.candidates.split(","):
            began, results = time.monotonic(), []
            for salt in range(args.salts):
                changes = dict(CANDIDATES[name])
                if name in PLAIN_TEXT:
                    changes["modalities"] = {"text": {"kind": "text", "leaky": True}}
                chosen = variant(study, changes, f"settings-{salt}", ids)
                results.append(run(chosen, root / "sites", root / f"{name}-{salt}"))
            means = {k: round(float(np.mean([r[k] for r in results])), 3) for k in sorted(results[0])}
            print(f"{name:20} {means} {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
