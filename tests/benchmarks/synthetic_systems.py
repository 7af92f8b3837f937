"""Every system on the SYNTHETIC cohort: pooled, federated, and each site alone; AUROC of death within a year.

Judged on the held-out patients of all training sites together (internal) and at the site that never trained (external).
No privacy. The oracle is the AUROC of the true risk against the drawn outcome on the same samples: more than any reader
of the files can know. The sites are those of `fl-sites synthesize`, the external one is called delta; without --sites
they are drawn first.

    python tests/benchmarks/synthetic_systems.py --sites DIR --systems attention,medfuse --seeds 1
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fl_client.data.cohort import Cohort
from fl_client.data.load import load_cohort
from fl_client.training.loop import Trainer
from fl_server.aggregation import aggregate, weighted_mean
from fl_shared.metrics.discrimination import auroc
from fl_shared.models.build import build_model, select
from fl_shared.models.systems import SYSTEMS
from fl_shared.site import Site, load_site
from fl_shared.study import Study
from fl_sites.synthetic.cohort import EVALUATION, synthesize
from fl_sites.synthetic.studies import study_file

MODALITIES = ("cine", "ecg", "ehr", "series", "text")  # the EHR: a table and series
POOLED = "pooled"
TOKENS = 192  # of a text: half of the usual study's, for time


def make_study(
    system: str, patients: Mapping[str, Iterable[str]], *, seed: int, modalities: Sequence[str], **training: Any
) -> Study:
    """The death of the synthetic cohort by one system over all modalities; of several sites the last is external."""
    usual = study_file(patients, seed=seed, evaluation=EVALUATION, modalities=modalities, system="attention")
    body = usual.model_dump(mode="json", by_alias=True, exclude_none=True)
    for plan in body["modalities"].values():
        del plan["encoder"]  # the system's own
        plan["max_tokens"] = min(plan.get("max_tokens", TOKENS), TOKENS)
    body |= {
        "tasks": {"death": {"type": "binary"}},
        "model": {"system": system, "width": 32},
        "privacy": {"mode": "none"},
        "training": {"batch": 32, "encoders": "shared", **training},
    }
    body["evaluation"] |= {"bootstrap": 100}
    return Study.model_validate(body)


def together(cohorts: Sequence[Cohort]) -> Cohort:
    """The patients of several sites as one site's."""
    offsets = np.cumsum([0, *(len(c.patient_ids) for c in cohorts)])

    def stacked(*parts: Any) -> Any:
        return np.concatenate(parts)

    first = cohorts[0]
    return replace(
        first,
        site=POOLED,
        sample_ids=tuple(s for c in cohorts for s in c.sample_ids),
        patient_ids=tuple(f"{c.site}/{p}" for c in cohorts for p in c.patient_ids),
        patient=np.concatenate([c.patient + o for c, o in zip(cohorts, offsets, strict=False)]),
        held_out=stacked(*(c.held_out for c in cohorts)),
        inputs={m: {k: stacked(*(c.inputs[m][k] for c in cohorts)) for k in first.inputs[m]} for m in first.inputs},
        present={m: stacked(*(c.present[m] for c in cohorts)) for m in first.present},
        targets={t: stacked(*(c.targets[t] for c in cohorts)) for t in first.targets},
        target_mask={t: stacked(*(c.target_mask[t] for c in cohorts)) for t in first.target_mask},
    )


def site_at(folder: Path, name: str) -> Site:
    """A site whose data are in memory."""
    site = Site.model_validate({"schema": 1, "name": name, "state": str(folder / name)})
    site._folder = folder
    return site


def trained(study: Study, cohorts: Mapping[str, Cohort], scratch: Path) -> Mapping[str, Any]:
    """The final arrays of a federation of the study's training sites."""
    trainers = {n: Trainer(study=study, site=site_at(scratch, n), cohort=cohorts[n]) for n in study.train_sites}
    model, state = select(build_model(study)), {}
    for number in range(1, study.training.rounds + 1):
        base = {name: array for name, array in model.items() if study.is_shared(name)}
        changing = {name: array for name, array in base.items() if study.releases(name, number)}
        updates = {n: t.train(round=number, base=base, sigma=None) for n, t in trainers.items()}
        same = study.phase(number) == study.phase(number - 1)
        changed, state = aggregate(
            study=study, round_number=number, base=changing, updates=updates, state=state if same else {}
        )
        model |= changed
    if study.keeps_local:
        local = {name: array for name, array in model.items() if study.is_local(name)}
        model |= weighted_mean(study=study, base=local, updates={n: t.encoders() for n, t in trainers.items()})
    return {n: a for n, a in model.items() if study.is_shared(n) or study.is_local(n)}


def judged(study: Study, arrays: Mapping[str, Any], cohort: Cohort, scratch: Path) -> float:
    """AUROC of death from all modalities: held-out patients of a training site, all of an external one."""
    rows, _ = Trainer(study=study, site=site_at(scratch, cohort.site), cohort=cohort).evaluate(arrays=arrays)
    found = next(r.value for r in rows if r.metric == "auroc" and r.modalities == "all")
    return float("nan") if found is None else found


def compare(
    system: str, cohorts: Mapping[str, Cohort], *, seed: int, modalities: Sequence[str], **training: Any
) -> dict[str, tuple[float, float]]:
    """Internal and external AUROC by who trained."""
    *train, outside = cohorts
    groups = {POOLED: (POOLED,), "federated": tuple(train), **{f"only {name}": (name,) for name in train}}
    known = {**cohorts, POOLED: together([cohorts[name] for name in train])}
    studies = {}
    for who, members in groups.items():
        ids = {name: known[name].patient_ids for name in (*members, outside)}
        study = make_study(system, ids, seed=seed, modalities=modalities, **training)
        sites = {
            name: plan.model_copy(update={"patients": int((~known[name].held_out).sum())} if name in members else {})
            for name, plan in study.sites.items()
        }
        batch = study.training.batch * (len(train) if who == POOLED else 1)  # as many patients a step as all sites
        plan = study.training.model_copy(update={"batch": batch})
        studies[who] = study.model_copy(update={"sites": sites, "training": plan})
    found = {}
    for who, study in studies.items():
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            arrays = trained(study, known, Path(folder))
            both = [judged(studies[POOLED], arrays, known[name], Path(folder)) for name in (POOLED, outside)]
        found[who] = (both[0], both[1])
        seconds = time.monotonic() - began
        print(f"{system:14} seed {seed} {who:12} {both[0]:.3f}  {both[1]:.3f}  {seconds:5.0f} s", flush=True)
    return found


def oracle(sites: Path, names: Sequence[str], *, held_out: bool) -> float:
    """AUROC of the true risk of death: held-out samples of the sites together, or all."""
    truth = pd.concat([pd.read_csv(sites / "truth" / f"{name}.csv") for name in names])
    truth = truth[truth["held_out"] == 1] if held_out else truth
    return auroc(truth["risk_death"].to_numpy(), truth["death"].to_numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=Path, help="of fl-sites synthesize; drawn into a temporary folder when absent")
    parser.add_argument("--patients", type=int, default=600, help="of each drawn site")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--modalities", default=",".join(MODALITIES))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", default="1")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    modalities = args.modalities.split(",")
    with tempfile.TemporaryDirectory() as folder:
        sites = args.sites or Path(folder) / "sites"
        if args.sites is None:
            synthesize(sites, sites=["alpha", "beta", "gamma", "delta"], patients=args.patients, seed=11)
        names = sorted(path.parent.name for path in sites.glob("*/site.toml"))
        names.sort(key=lambda name: name == "delta")
        plan = {name: [str(k) for k in range(100)] for name in names}  # only read with it
        study = make_study("attention", plan, seed=0, modalities=modalities, rounds=1, steps=1)
        cohorts = {name: load_cohort(load_site(sites / name), study)[0] for name in names}
        inside, outside = oracle(sites, names[:-1], held_out=True), oracle(sites, names[-1:], held_out=False)
        print(f"{'':14} {'':6} {'':12} internal external\n{'oracle':34} {inside:.3f}  {outside:.3f}", flush=True)
        for system in args.systems.split(","):
            found = [
                compare(
                    system, cohorts, seed=int(seed), modalities=modalities,
                    rounds=args.rounds, steps=args.steps, learning_rate=args.rate,
                )
                for seed in args.seeds.split(",")
            ]  # fmt: skip
            for who in found[0]:
                mean = np.mean([f[who] for f in found], axis=0)
                print(f"{system:14} mean of {len(found)} {who:12} {mean[0]:.3f}  {mean[1]:.3f}", flush=True)


if __name__ == "__main__":
    main()
