"""What privacy costs on the SYNTHETIC cohort: AUROC and calibration of death by epsilon, policy, noise and site size.

Three sites train, a fourth judges; a fifth, of no part in the study, is the public cohort on which every encoder was
pretrained (ECG, table, series). No cine and no text. Settings were fixed on the public cohort alone, cut into three
pretended sites. Sums, noise, budgets and aggregation are the product's; sockets and secure aggregation, which change no
number beyond rounding, are left out.

    python tests/benchmarks/private_utility.py draw --at DIR        # 3,000 public and 4 x 5,000 patients: 10 minutes
    python tests/benchmarks/private_utility.py curve --at DIR       # frozen public encoders, 150 to 5,000 a site
    python tests/benchmarks/private_utility.py policies --at DIR    # frozen, local, shared, adapters at 600 a site
    python tests/benchmarks/private_utility.py table --at DIR       # what is there so far: figures and a picture
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from synthetic_systems import make_study, site_at
from targets import HERE, Figure, keep

from fl_client.data.cohort import Cohort
from fl_client.data.load import load_cohort
from fl_client.pretraining import Pretraining, pretrain
from fl_client.training import loop
from fl_client.training.features import FeatureCache
from fl_client.training.judge import predict
from fl_client.training.rows import as_batch, span
from fl_server.aggregation import aggregate, weighted_mean
from fl_shared.budget import budget
from fl_shared.metrics.discrimination import auroc
from fl_shared.models.build import build_model, load, select
from fl_shared.models.interface import EncoderOutput
from fl_shared.site import load_site
from fl_shared.study import Study
from fl_shared.together import own_sigma
from fl_sites.synthetic.cohort import synthesize

MODALITIES = ("ecg", "ehr", "series")
TRAIN, OUTSIDE = ("alpha", "beta", "gamma"), "delta"
SIZES, EPSILONS, SEEDS = (150, 500, 1300, 2000, 5000), (None, 8.0, 3.0, 1.0), (1, 2, 3)
POLICY_SIZE, JUDGED = 600, 2000
BARS = {
    **{("local", size): 0.06 for size in ("150", "500", "1300", "150, 500, 1300")},
    **{("distributed", size): 0.02 for size in ("150", "500", "1300", "150, 500, 1300")},
    ("local", "2000"): 0.02,
}
"""Most AUROC that frozen public encoders may lose at epsilon 8."""


def draw(at: Path) -> None:
    """All sites, and the public encoders."""
    synthesize(at / "public", sites=["public", "other"], patients=3000, seed=99, modalities=MODALITIES)
    synthesize(at / "sites", sites=[*TRAIN, OUTSIDE], patients=max(SIZES), seed=21, modalities=MODALITIES)


def pretrained(at: Path) -> dict[str, tuple[Path, str]]:
    """Modality -> bundle of the public cohort and its digest; made on the first call."""
    known = at / "bundles.json"
    if not known.exists():
        site = load_site(at / "public" / "public")
        ids = {"public": [str(k) for k in range(2400)], "other": []}
        study = plain_study(ids, seed=99, rounds=20, steps=30)
        allowed = site.privacy.model_copy(update={"allow_without_privacy": True})
        plan = Pretraining(modalities=MODALITIES, objective="supervised", rounds=20, provenance="public")
        found = pretrain(site.model_copy(update={"privacy": allowed}), study, plan, out=at / "bundles", done=print)
        known.write_text(json.dumps({name: (str(folder), digest) for name, (folder, digest) in found.items()}))
    return {name: (Path(folder), digest) for name, (folder, digest) in json.loads(known.read_text()).items()}


def plain_study(patients: Mapping[str, Sequence[str]], *, seed: int, **training: Any) -> Study:
    """Without privacy, from random encoders."""
    usual = make_study("attention", patients, seed=seed, modalities=MODALITIES, **training)
    body = usual.model_dump(mode="json", by_alias=True)
    body["modalities"]["series"]["encoder"] = "events_summary"
    body["tasks"] = {"death": {"type": "binary"}}
    return Study.model_validate(body)


def study_of(
    sizes: Mapping[str, int], *, seed: int, epsilon: float | None, noise: str, policy: str, at: Path, **settings: Any
) -> Study:
    """One cell's study; the last site of ``sizes`` is external."""
    usual = plain_study({name: ["0"] for name in sizes}, seed=seed, rounds=1, steps=1)
    body = usual.model_dump(mode="json", by_alias=True)
    for name, (_, digest) in pretrained(at).items():
        body["modalities"][name] |= {"weights": name, "weights_sha256": digest, "provenance": "public"}
    for name in list(sizes)[:-1]:
        body["sites"][name]["patients"] = sizes[name]
    together = {"noise": "distributed", "aggregation": "secure"} if noise == "distributed" else {}
    none = {"mode": "none"}
    private = {"mode": "patient", "epsilon": epsilon, "clip": settings.pop("clip", 1.0), **together}
    body["model"] |= settings.pop("model", {})
    body["privacy"] = none if epsilon is None else private
    body["training"] = {"encoders": policy, **settings}
    body["rounds"]["quorum"] = len(sizes) - 1
    return Study.model_validate(body)


def first(cohort: Cohort, patients: int) -> Cohort:
    """The first patients of a cohort, whose rows are in their order."""
    rows = slice(0, int(np.searchsorted(cohort.patient, patients)))
    return replace(
        cohort,
        sample_ids=cohort.sample_ids[rows],
        patient_ids=cohort.patient_ids[:patients],
        patient=cohort.patient[rows],
        held_out=cohort.held_out[:patients],
        inputs={m: {k: v[rows] for k, v in named.items()} for m, named in cohort.inputs.items()},
        present={m: v[rows] for m, v in cohort.present.items()},
        targets={t: v[rows] for t, v in cohort.targets.items()},
        target_mask={t: v[rows] for t, v in cohort.target_mask.items()},
    )


class Shared(FeatureCache):
    """Features of the public encoders, computed once a cohort and not once a cell: a cell's patients are the first."""

    whole: dict[tuple[bytes, str], EncoderOutput] = {}  # noqa: RUF012 - one store for all cells

    def _computed(self, name: str) -> EncoderOutput:
        inputs = self._batch.inputs[name]
        key = b"".join(x[:20].numpy().tobytes() for x in inputs.values()), name  # tells cohorts apart
        known = Shared.whole.get(key)
        if known is None or len(known.pooled) < len(self._batch):
            known = Shared.whole[key] = super()._computed(name)
        return span(known, 0, len(self._batch))


def trained(
    study: Study, cohorts: Mapping[str, Cohort], weights: Mapping[str, Path], scratch: Path
) -> Mapping[str, Any]:
    """The final arrays of a federation of the study's training sites."""
    trainers, sigma = {}, {}
    for name in study.train_sites:
        site = site_at(scratch, name).model_copy(update={"weights": dict(weights)})
        trainers[name] = loop.Trainer(study=study, site=site, cohort=cohorts[name])
        event = budget(study, name, delta=study.privacy.delta).training
        sigma[name] = None if event is None else own_sigma(study, name, event.sigma)
    model, state = select(build_model(study, weights=weights)), {}
    for number in range(1, study.training.rounds + 1):
        base = {name: array for name, array in model.items() if study.is_shared(name)}
        changing = {name: array for name, array in base.items() if study.releases(name, number)}
        updates = {n: t.train(round=number, base=base, sigma=sigma[n]) for n, t in trainers.items()}
        changed, state = aggregate(study=study, round_number=number, base=changing, updates=updates, state=state)
        model |= changed
    if study.keeps_local:
        local = {name: array for name, array in model.items() if study.is_local(name)}
        model |= weighted_mean(study=study, base=local, updates={n: t.encoders() for n, t in trainers.items()})
    return model


def judged(
    study: Study, arrays: Mapping[str, Any], cohort: Cohort, weights: Mapping[str, Path], *, task: str, held_out: bool
) -> dict[str, float]:
    """AUROC, and mean predicted over observed risk."""
    model = build_model(study, weights=weights)
    load(model, arrays)
    rows = cohort.rows(held_out=True) if held_out else np.arange(len(cohort))
    batch = as_batch(cohort, device=torch.device("cpu"))
    model.enter(study.training.rounds)
    batch = loop.FeatureCache(model, batch).fill(batch) if study.training.encoders == "frozen" else batch
    said = predict(model, batch, rows=rows[:JUDGED], tasks=study.tasks, subsets={"all": tuple(study.modalities)})["all"]
    risk, truth = said.predictions[task][:, 0], said.targets[task][:, 0]
    return {"auroc": float(auroc(risk, truth)), "expected_observed": float(risk.mean() / truth.mean())}


def settings_of(*, epsilon: float | None, noise: str, policy: str, patients: int) -> dict[str, Any]:
    """Fixed on the public cohort, at 150 and 800 patients a site and epsilon 8; the same for every other cell."""
    batch = min(1024, int(0.8 * patients))
    if epsilon is None:
        return {"rounds": 8, "steps": 10, "batch": min(64, batch), "learning_rate": 2e-3}
    if noise == "distributed":
        return {"rounds": 20, "steps": 1, "batch": batch // 2, "learning_rate": 2.0, "optimizer": "sgd", "clip": 1.0}
    rate = 1.0 if policy == "frozen" else 0.1
    if patients < 400:
        return {"rounds": 10, "steps": 1, "batch": batch, "learning_rate": 1e-2 * rate, "clip": 1.0}
    return {"rounds": 5, "steps": 4, "batch": batch // 2, "learning_rate": 5e-3 * rate, "clip": 1.0}


def cell(
    cohorts: Mapping[str, Cohort],
    sizes: Sequence[int],
    *,
    seed: int,
    epsilon: float | None,
    noise: str,
    policy: str,
    at: Path,
) -> dict[str, Any]:
    """One federation, judged inside (held-out patients of all its sites) and outside."""
    began = time.monotonic()
    used = {name: first(cohorts[name], size) for name, size in zip(TRAIN, sizes, strict=True)}
    declared = {name: int((~cohort.held_out).sum()) for name, cohort in used.items()}
    settings = settings_of(epsilon=epsilon, noise=noise, policy=policy, patients=int(np.mean([*declared.values()])))
    study = study_of(
        {**declared, OUTSIDE: 0}, seed=seed, epsilon=epsilon, noise=noise, policy=policy, at=at, **settings
    )
    weights = {name: folder for name, (folder, _) in pretrained(at).items()}
    with tempfile.TemporaryDirectory() as scratch:
        model = trained(study, used, weights, Path(scratch))
    outside = judged(study, model, cohorts[OUTSIDE], weights, task="death", held_out=False)
    inside = [judged(study, model, cohorts[name], weights, task="death", held_out=True) for name in TRAIN]
    found = {"external": outside, "internal": {k: float(np.mean([i[k] for i in inside])) for k in outside}}
    where = {"sizes": list(sizes), "seed": seed, "epsilon": epsilon, "noise": noise, "policy": policy}
    told = {k: round(v, 3) for k, v in outside.items()}
    print(where, told, f"{time.monotonic() - began:.0f} s", flush=True)
    return where | found


def cells(what: str) -> Iterable[dict[str, Any]]:
    """All cells of a table."""
    if what == "policies":
        for seed, epsilon, policy in itertools.product(SEEDS, EPSILONS, ("frozen", "local", "shared", "adapters")):
            yield {"sizes": [POLICY_SIZE] * 3, "seed": seed, "epsilon": epsilon, "noise": "local", "policy": policy}
        return
    for seed, sizes in itertools.product(SEEDS, ([150, 500, 1300], *([n] * 3 for n in SIZES))):
        for epsilon, noise in itertools.product(EPSILONS, ("local", "distributed")):
            if epsilon is not None or noise == "local":
                yield {"sizes": sizes, "seed": seed, "epsilon": epsilon, "noise": noise, "policy": "frozen"}


def tabulate(at: Path) -> None:
    """Means over seeds, what they lose against no privacy, and the curve over the size of a site."""
    for what in ("curve", "policies"):
        store = at / f"{what}.jsonl"
        found = [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []
        groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for each in found:
            key = tuple(each["sizes"]), each["policy"], each["noise"], each["epsilon"]
            groups.setdefault(key, []).append(each)
        if groups:
            figures = [
                figure for key, cells in sorted(groups.items(), key=str) for figure in _figures(key, cells, groups)
            ]
            title = {"curve": "over the size of a site, frozen public encoders", "policies": "by policy, 600 a site"}[
                what
            ]
            command = f"python tests/benchmarks/private_utility.py {what} --at DIR"
            keep(
                f"private_utility_{what}",
                title=f"Privacy on the SYNTHETIC cohort {title}",
                command=command,
                figures=figures,
            )
        if what == "curve" and groups:
            _picture(groups)


def _figures(key: tuple[Any, ...], cells: list[dict[str, Any]], groups: Mapping[Any, Any]) -> Iterable[Figure]:
    sizes, policy, noise, epsilon = key
    size = str(sizes[0]) if len(set(sizes)) == 1 else ", ".join(map(str, sizes))
    name = f"{size} a site, {policy}, " + ("no privacy" if epsilon is None else f"epsilon {epsilon:g}, {noise} noise")
    for where in ("internal", "external"):
        scores = [cell[where]["auroc"] for cell in cells]
        ratio = np.mean([cell[where]["expected_observed"] for cell in cells])
        note = f"expected over observed {ratio:.2f}; {len(cells)} seed(s), range in brackets"
        yield Figure(
            what=f"{name}: {where} AUROC", value=float(np.mean(scores)), low=min(scores), high=max(scores), note=note
        )
    plain = groups.get((sizes, policy, "local", None), [])
    bar = BARS.get((noise, size)) if epsilon == 8.0 and policy == "frozen" else None
    if epsilon is not None and plain:
        lost = np.mean([c["external"]["auroc"] for c in plain]) - np.mean([c["external"]["auroc"] for c in cells])
        yield Figure(what=f"{name}: external AUROC lost", value=float(lost), target=bar, better="lower")


def _picture(groups: Mapping[Any, Any]) -> None:
    from matplotlib.figure import Figure as Canvas

    canvas = Canvas(figsize=(7, 4.2), layout="constrained")
    axes = canvas.subplots()
    lines = [(None, "local"), *itertools.product((8.0, 3.0, 1.0), ("local", "distributed"))]
    for epsilon, noise in lines:
        points = [(n, groups[key]) for n in SIZES if (key := ((n,) * 3, "frozen", noise, epsilon)) in groups]
        scores = [np.mean([cell["external"]["auroc"] for cell in cells]) for _, cells in points]
        label = "no privacy" if epsilon is None else f"epsilon {epsilon:g}, {noise} noise"
        colour = {None: "0.3", 8.0: "C0", 3.0: "C1", 1.0: "C3"}[epsilon]
        axes.plot(
            [n for n, _ in points],
            scores,
            "--" if noise == "distributed" else "-",
            marker="o",
            color=colour,
            label=label,
        )
    axes.set(xscale="log", xlabel="patients a site (three sites)", ylabel="AUROC of death at the fourth site")
    axes.set_xticks(SIZES, [f"{n:,}" for n in SIZES], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_title("SYNTHETIC cohort, frozen public encoders, mean of seeds")
    axes.legend(fontsize=8)
    canvas.savefig(HERE / "results" / "private_utility.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["draw", "curve", "policies", "table"])
    parser.add_argument("--at", type=Path, required=True, help="folder of sites, encoders and results; resumable")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "draw":
        draw(args.at)
        return
    if args.what == "table":
        tabulate(args.at)
        return
    loop.FeatureCache = Shared  # type: ignore[misc]
    usual = plain_study({name: ["0"] for name in (*TRAIN, OUTSIDE)}, seed=1, rounds=1, steps=1)
    cohorts = {name: load_cohort(load_site(args.at / "sites" / name), usual)[0] for name in (*TRAIN, OUTSIDE)}
    store = args.at / f"{args.what}.jsonl"
    lines = store.read_text().splitlines() if store.exists() else []
    keys = ("sizes", "seed", "epsilon", "noise", "policy")
    known = [{k: json.loads(line)[k] for k in keys} for line in lines]
    for wanted in cells(args.what):
        if wanted not in known:
            found = cell(cohorts, **wanted, at=args.at)
            with store.open("a") as file:
                file.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
