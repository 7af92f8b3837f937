"""Every system on the SYNTHETIC cohort: pooled, federated, and each site alone; AUROC of death within a year.

Judged on the held-out patients of all training sites together (internal) and at the site that never trained (external).
No privacy. Two figures stand beside, of the same samples. The oracle is the AUROC of the true risk: that knows what no
file holds, the days to the patient's later records and the state from which a record's state wavers. The reader is the
AUROC of that risk's own formula at what the record was drawn from, exactly: what learning can come close to.

The sites are those of `fl-sites synthesize`, the external one is called delta; without --sites they are drawn first.
The first of --systems is held against the oracle; with --keep the figures are stored under that name.

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
from numpy.typing import NDArray
from targets import Figure, keep

from fl_client.data.cohort import Cohort
from fl_client.data.load import load_cohort
from fl_client.training.judge import Judge, predict
from fl_client.training.loop import Trainer
from fl_client.training.rows import as_batch
from fl_server.aggregation import aggregate, weighted_mean
from fl_shared.metrics.discrimination import auroc
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.models.build import build_model, load, select
from fl_shared.models.systems import SYSTEMS
from fl_shared.site import Site, load_site
from fl_shared.study import Study
from fl_sites.synthetic.cohort import EVALUATION, synthesize
from fl_sites.synthetic.studies import study_file

MODALITIES = ("cine", "ecg", "ehr", "series", "text")  # the EHR: a table and series
POOLED, FEDERATED, ALONE = "pooled", "federated", "only "
INTERNAL, EXTERNAL = "internal", "external"
WHERE = (INTERNAL, EXTERNAL)
Measured = NDArray[np.float64]  # AUROC and the ends of its interval
TASK = "death"  # is judged; trained with the usual study's other task, which shares its latent state
TOKENS = 192  # of a text: half of the usual study's, for time
ENCODERS: Mapping[str, Mapping[str, str]] = {"attention": {"series": "events_summary"}}  # beside a system's own
NEAR_ORACLE, NEAR_POOLED = 0.03, 0.02  # AUROC that pooled training may lose to the oracle, and federated to pooled
TRIED = (
    "tried: modality dropout .4-.6, weight decay .1-1, rates .0005-.003, concat, fixed weights, MedFuse, LeMoF, "
    "MedM2T, 1,500 a site, more tasks; the reader says what files can tell"
)


def make_study(
    system: str, patients: Mapping[str, Iterable[str]], *, seed: int, modalities: Sequence[str], **training: Any
) -> Study:
    """The usual tasks of the cohort by one system over the modalities; of several sites the last is external."""
    usual = study_file(patients, seed=seed, evaluation=EVALUATION, modalities=modalities, system="attention")
    body = usual.model_dump(mode="json", by_alias=True, exclude_none=True)
    for name, plan in body["modalities"].items():
        del plan["encoder"]  # the system's own
        plan |= {"encoder": chosen} if (chosen := ENCODERS.get(system, {}).get(name)) else {}
        plan["max_tokens"] = min(plan.get("max_tokens", TOKENS), TOKENS)
    body |= {
        "model": {"system": system, "width": 32},
        "privacy": {"mode": "none"},
        "training": {"batch": 32, "encoders": "shared", **training},
    }
    body["evaluation"] |= {"bootstrap": 200}
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
    model: Mapping[str, Any] = select(build_model(study))
    state: Mapping[str, Any] = {}
    for number in range(1, study.training.rounds + 1):
        base = {name: array for name, array in model.items() if study.is_shared(name)}
        changing = {name: array for name, array in base.items() if study.releases(name, number)}
        updates = {n: t.train(round=number, base=base, sigma=None) for n, t in trainers.items()}
        same = study.phase(number) == study.phase(number - 1)
        changed, state = aggregate(
            study=study, round_number=number, base=changing, updates=updates, state=state if same else {}
        )
        model = {**model, **changed}
    if study.keeps_local:
        local = {name: array for name, array in model.items() if study.is_local(name)}
        own = weighted_mean(study=study, base=local, updates={n: t.encoders() for n, t in trainers.items()})
        model = {**model, **own}
    return {n: a for n, a in model.items() if study.is_shared(n) or study.is_local(n)}


def judged(study: Study, arrays: Mapping[str, Any], cohort: Cohort, scratch: Path) -> Measured:
    """AUROC of death from all modalities: held-out patients of a training site, all of an external one."""
    model, batch, site = build_model(study), as_batch(cohort, device=torch.device("cpu")), site_at(scratch, cohort.site)
    load(model, arrays)
    rows, plan = Judge(study=study, site=site, cohort=cohort).rows(), study.tasks[TASK]
    said = predict(model, batch, rows=rows, tasks={TASK: plan}, subsets={"all": tuple(study.modalities)})["all"]
    found, _ = evaluate_predictions(
        site=site.name, role=study.sites[site.name].role, task=TASK, plan=plan, modalities="all", model="",
        predictions=said.predictions[TASK], targets=said.targets[TASK], mask=said.mask[TASK],
        patients=cohort.patient[said.rows], bootstrap=study.evaluation.bootstrap, seed=study.seed, min_patients=2,
    )  # fmt: skip
    row = next(row for row in found if row.metric == "auroc")
    return np.array([row.value, row.ci_low, row.ci_high], dtype=np.float64)


def compare(
    system: str, cohorts: Mapping[str, Cohort], *, seed: int, modalities: Sequence[str], **training: Any
) -> dict[str, dict[str, Measured]]:
    """AUROC by who trained, and where it is judged."""
    *train, outside = cohorts
    groups = {POOLED: (POOLED,), FEDERATED: tuple(train), **{f"{ALONE}{name}": (name,) for name in train}}
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
            judges = zip(WHERE, (POOLED, outside), strict=True)
            found[who] = {where: judged(studies[POOLED], arrays, known[name], Path(folder)) for where, name in judges}
        seconds = time.monotonic() - began
        print(f"{system:14} seed {seed} {who:12} {_shown(found[who])}  {seconds:5.0f} s", flush=True)
    return found


def _shown(measured: Mapping[str, Measured]) -> str:
    return "  ".join("{:.3f} ({:.3f}-{:.3f})".format(*measured[where]) for where in WHERE)


def truth(sites: Path, name: str) -> pd.DataFrame:
    """The latent state and true risk of each sample of a site, and the age that its table tells."""
    encoding = load_site(sites / name).encoding
    told = pd.read_csv(sites / name / "samples.csv", usecols=["sample_id", "age"], encoding=encoding, dtype=str)
    found = pd.read_csv(sites / "truth" / f"{name}.csv", dtype={"sample_id": str}).merge(told, on="sample_id")
    return found.assign(reader=1.5 * found["severity"] + 0.05 * found["age"].astype(float))


def bounds(sites: Path, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """AUROC of oracle and reader: held-out samples of the training sites together, and the external site."""
    inside = pd.concat([truth(sites, name) for name in names[:-1]])
    judges = {INTERNAL: inside[inside["held_out"] == 1], EXTERNAL: truth(sites, names[-1])}
    columns = {"oracle": "risk_death", "reader": "reader"}
    return {
        who: {where: auroc(rows[column].to_numpy(), rows[TASK].to_numpy()) for where, rows in judges.items()}
        for who, column in columns.items()
    }


def figures(system: str, found: Mapping[str, Mapping[str, Measured]], best: Mapping[str, float] | None) -> list[Figure]:
    """A system's table; ``best``: the oracle's AUROC, where pooled training is held against it."""
    listed = []
    for who, by_where in found.items():
        for where, (value, low, high) in by_where.items():
            target, note = None, ""
            if who == FEDERATED:
                target = found[POOLED][where][0] - NEAR_POOLED
            elif who == POOLED and best is not None:
                target, note = best[where] - NEAR_ORACLE, TRIED
            what = f"{system}, {who}, {where}"
            listed.append(Figure(what=what, value=value, low=low, high=high, target=target, note=note))
    alone = max(by_where[EXTERNAL][0] for who, by_where in found.items() if who.startswith(ALONE))
    what = f"{system}, federated against the best site alone, external"
    return [*listed, Figure(what=what, value=found[FEDERATED][EXTERNAL][0], target=alone)]


def cohorts_of(sites: Path, modalities: Sequence[str]) -> dict[str, Cohort]:
    """Every site's cohort, the external one last."""
    names = sorted((path.parent.name for path in sites.glob("*/site.toml")), key=lambda name: (name == "delta", name))
    plan = {name: [str(k) for k in range(100)] for name in names}  # only read with it
    study = make_study("attention", plan, seed=0, modalities=modalities, rounds=1, steps=1)
    return {name: load_cohort(load_site(sites / name), study)[0] for name in names}


def main() -> None:
    """Train and judge every system; tell and perhaps keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=Path, help="of fl-sites synthesize; drawn into a temporary folder when absent")
    parser.add_argument("--patients", type=int, default=600, help="of each drawn site")
    parser.add_argument("--systems", default=",".join(SYSTEMS))
    parser.add_argument("--modalities", default=",".join(MODALITIES))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--keep", metavar="NAME", help="store the figures")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    modalities = args.modalities.split(",")
    with tempfile.TemporaryDirectory() as folder:
        sites = args.sites or Path(folder) / "sites"
        if args.sites is None:
            synthesize(sites, sites=["alpha", "beta", "gamma", "delta"], patients=args.patients, seed=11)
        cohorts = cohorts_of(sites, modalities)
        bound = bounds(sites, list(cohorts))
        for who, by_where in bound.items():
            print(f"{who:34} {by_where[INTERNAL]:.3f}  {by_where[EXTERNAL]:.3f}", flush=True)
        listed = [Figure(what=f"{who}, {w}", value=value) for who, by in bound.items() for w, value in by.items()]
        for number, system in enumerate(args.systems.split(",")):
            each = [
                compare(
                    system, cohorts, seed=int(seed), modalities=modalities,
                    rounds=args.rounds, steps=args.steps, learning_rate=args.rate,
                )
                for seed in args.seeds.split(",")
            ]  # fmt: skip
            found = {who: {w: np.mean([seed[who][w] for seed in each], axis=0) for w in WHERE} for who in each[0]}
            listed += figures(system, found, bound["oracle"] if number == 0 else None)
            if args.keep:
                patients = round(np.mean([len(cohort.patient_ids) for cohort in cohorts.values()]))
                title = (
                    f"SYNTHETIC cohort, AUROC of death within a year: {patients} patients a site, "
                    f"{', '.join(modalities)}, {args.rounds} rounds of {args.steps} steps, seeds {args.seeds}"
                )
                keep(args.keep, title=title, command=command(args), figures=listed)


def command(args: argparse.Namespace) -> str:
    """What makes the table again."""
    said = {"patients": args.patients, "systems": args.systems, "modalities": args.modalities, "rounds": args.rounds}
    said |= {"steps": args.steps, "rate": args.rate, "seeds": args.seeds, "keep": args.keep}
    return " ".join(["python tests/benchmarks/synthetic_systems.py", *(f"--{k} {v}" for k, v in said.items())])


if __name__ == "__main__":
    main()
