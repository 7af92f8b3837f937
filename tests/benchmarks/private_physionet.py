"""What privacy costs on PhysioNet 2012: death in hospital by epsilon and policy, judged on an ICU that never trained.

Two types of ICU train (cardiac surgery, surgical), the medical one judges; the encoders were pretrained without privacy
on the fourth (coronary), whose patients are others. Settings are those that `private_utility.py` fixed on public data.

    python tests/benchmarks/private_physionet.py --from ../shared/data/physionet-2012 --at DIR
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from private_utility import EPSILONS, SEEDS, judged, settings_of, trained
from targets import Figure, keep

from fl_client.data.cohort import Cohort
from fl_client.data.load import load_cohort
from fl_client.pretraining import Pretraining, pretrain
from fl_shared.site import load_site
from fl_shared.study import Study, load_study
from fl_sites.importers.physionet_2012 import import_physionet_2012

PUBLIC, TRAIN, OUTSIDE = "icu_coronary", ("icu_cardiac_surgery", "icu_surgical"), "icu_medical"
MODALITIES, TASK = ("ehr", "series"), "in_hospital_death"
POLICIES = ("frozen", "local", "shared", "adapters")


def study_of(
    written: Study, sites: Mapping[str, Any], *, privacy: Mapping[str, Any], training: Mapping[str, Any]
) -> Study:
    """The importer's study of one task over other sites, in one phase."""
    body = written.model_dump(mode="json", by_alias=True)
    body["tasks"] = {TASK: body["tasks"][TASK]}
    body |= {"sites": dict(sites), "privacy": dict(privacy), "training": dict(training), "rounds": {"quorum": 1}}
    body["model"] = {"system": "attention", "width": 32}
    return Study.model_validate(body)


def bundles(at: Path, written: Study) -> dict[str, tuple[Path, str]]:
    """Encoders of the coronary unit; trained on the first call."""
    known = at / "bundles.json"
    if not known.exists():
        site = load_site(at / PUBLIC)
        count = len(load_cohort(site, written)[0].patient_ids)
        sites = {PUBLIC: {"role": "train", "patients": count}}
        training = {"rounds": 8, "steps": 30, "batch": 64, "weight_decay": 0.1}
        study = study_of(written, sites, privacy={"mode": "none"}, training=training)
        plan = Pretraining(modalities=MODALITIES, objective="supervised", rounds=8, provenance="disjoint")
        found = pretrain(site, study, plan, out=at / "bundles")
        known.write_text(json.dumps({name: (str(folder), digest) for name, (folder, digest) in found.items()}))
    return {name: (Path(folder), digest) for name, (folder, digest) in json.loads(known.read_text()).items()}


def cell(
    written: Study, cohorts: Mapping[str, Cohort], at: Path, *, seed: int, epsilon: float | None, policy: str
) -> dict[str, dict[str, float]]:
    """One federation, judged inside (held-out patients) and outside."""
    declared = {name: int((~cohorts[name].held_out).sum()) for name in TRAIN}
    settings = settings_of(epsilon=epsilon, noise="local", policy=policy, patients=int(np.mean([*declared.values()])))
    clip = settings.pop("clip", 1.0)
    privacy = {"mode": "none"} if epsilon is None else {"mode": "patient", "epsilon": epsilon, "clip": clip}
    sites = {name: {"role": "train", "patients": n} for name, n in declared.items()} | {OUTSIDE: {"role": "external"}}
    study = study_of(written, sites, privacy=privacy, training={"encoders": policy, **settings})
    body = study.model_dump(mode="json", by_alias=True)
    weights = {}
    for name, (folder, digest) in bundles(at, written).items():
        weights[name] = folder
        body["modalities"][name] |= {"weights": name, "weights_sha256": digest, "provenance": "disjoint"}
    study = Study.model_validate(body | {"seed": seed})
    with tempfile.TemporaryDirectory() as scratch:
        model = trained(study, cohorts, weights, Path(scratch))
    outside = judged(study, model, cohorts[OUTSIDE], weights, task=TASK, held_out=False)
    inside = [judged(study, model, cohorts[name], weights, task=TASK, held_out=True) for name in TRAIN]
    return {"external": outside, "internal": {k: float(np.mean([i[k] for i in inside])) for k in outside}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True)
    parser.add_argument("--at", type=Path, required=True, help="folder of sites and encoders")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if not (args.at / "study.toml").exists():
        import_physionet_2012(args.source, args.at)
    written = load_study(args.at / "study.toml")
    cohorts = {name: load_cohort(load_site(args.at / name), written)[0] for name in (*TRAIN, OUTSIDE)}
    figures = []
    for policy, epsilon in itertools.product(POLICIES, EPSILONS):
        cells = [cell(written, cohorts, args.at, seed=seed, epsilon=epsilon, policy=policy) for seed in SEEDS]
        name = f"{policy}, " + ("no privacy" if epsilon is None else f"epsilon {epsilon:g}")
        for where in ("internal", "external"):
            scores = [found[where]["auroc"] for found in cells]
            ratio = np.mean([found[where]["expected_observed"] for found in cells])
            note = f"expected over observed {ratio:.2f}; {len(cells)} seeds, range in brackets"
            figure = Figure(
                what=f"{name}: {where} AUROC",
                value=float(np.mean(scores)),
                low=min(scores),
                high=max(scores),
                note=note,
            )
            figures.append(figure)
            print(figure.what, round(figure.value, 3), note, flush=True)
    keep(
        "private_physionet",
        title="Privacy on PhysioNet 2012: cardiac surgery and surgical ICU train, medical judges, coronary pretrained",
        command="python tests/benchmarks/private_physionet.py --from ../shared/data/physionet-2012 --at DIR",
        figures=figures,
    )


if __name__ == "__main__":
    main()
