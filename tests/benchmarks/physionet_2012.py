"""PhysioNet 2012 in the product: death in hospital, length of stay and survival of 3,001 stays, one study for all.

Pooled: five folds over all stays together, every stay judged once by a model that never saw it. Federated: FedAvg over
three types of ICU, judged on the fourth. Both train with the product's own trainers and aggregation, from the study
that the importer writes. Which of a few settings to use is chosen anew for every fold and every external type, on its
training rows only: by three folds within them (pooled), or by leaving out one training type after the other.

    python tests/benchmarks/physionet_2012.py --from ../shared/data/physionet-2012
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import targets
import torch
from numpy.typing import NDArray
from physionet_work import DEATH, INNER, POOLED, Changes, Predictions, Work, auroc, folds, joined, rows
from targets import Figure

from fl_client.data.cohort import Cohort
from fl_sites.importers.physionet_2012 import import_physionet_2012
from fl_sites.importers.physionet_2012_plan import SITES

FOLDS, SEED = 5, 7
CANDIDATES: Mapping[str, Changes] = {
    "as imported": {},
    "shorter": {"training": {"steps": 20}},
    "shorter with nothing hidden": {"training": {"steps": 20}, "model": {"modality_dropout": 0.0}},
}
TREES = {"icu_coronary": 0.869, "icu_cardiac_surgery": 0.879, "icu_medical": 0.795, "icu_surgical": 0.822}
"""Gradient boosting on hand-made features, trained on the other three types together: AUROC of death."""
POOLED_TARGET, TARGET_SITE = 0.855, "icu_medical"
WORDS = {
    "in_hospital_death auroc": "death, AUROC",
    "in_hospital_death auprc": "death, AUPRC",
    "in_hospital_death brier": "death, Brier score",
    "los_days mae": "length of stay, mean absolute error in days",
    "los_days kappa": "length of stay, linearly weighted kappa of ten bins",
    "survival harrell_c": "survival of a year, Harrell's C",
    "survival uno_auc 365d": "survival, AUROC of death within 365 days",
}
DESIGNED = "encoder and candidates were designed by folds within the training rows of the first fold"
SAME_C = "Uno's C is the same: nobody is censored before the horizon"


def chosen_in_folds(work: Work, cohort: Cohort, *, batch: int) -> tuple[str, float]:
    """The best candidate on folds within a cohort of training rows."""
    cut = folds(cohort, INNER, seed=SEED)
    found = {}
    for name, changes in CANDIDATES.items():
        parts = [work.told({POOLED: rows(cohort, a)}, rows(cohort, b), changes, batch=batch) for a, b in cut]
        found[name] = auroc(cohort, joined(parts, np.concatenate([b for _, b in cut])))
    return _best(found)


def chosen_over_sites(work: Work, train: Mapping[str, Cohort]) -> tuple[str, float]:
    """The best candidate when each training site is judged by the model of the others."""
    found = {}
    for name, changes in CANDIDATES.items():
        each = []
        for left_out, judged in train.items():
            others = {site: cohort for site, cohort in train.items() if site != left_out}
            each.append(auroc(judged, work.told(others, judged, changes)))
        found[name] = float(np.mean(each))
    return _best(found)


def _best(found: Mapping[str, float]) -> tuple[str, float]:
    name = max(found, key=lambda key: found[key])
    return name, found[name]


def pooled(work: Work) -> list[Figure]:
    """Five folds over all stays."""
    cohort, batch = work.pooled, len(work.cohorts)  # as many patients a step as all sites together
    cut, parts, each, names = folds(cohort, FOLDS, seed=SEED), [], [], []
    for number, (train, judged) in enumerate(cut):
        began = time.monotonic()
        part = rows(cohort, train)
        name, inner = chosen_in_folds(work, part, batch=batch)
        parts.append(work.told({POOLED: part}, rows(cohort, judged), CANDIDATES[name], batch=batch))
        each.append(auroc(rows(cohort, judged), parts[-1]))
        names.append(name)
        print(
            f"fold {number}  {each[-1]:.3f}  ({name}, within {inner:.3f})  {time.monotonic() - began:.0f} s", flush=True
        )
    said = joined(parts, np.concatenate([judged for _, judged in cut]))
    note = (
        f"folds {', '.join(f'{a:.3f}' for a in each)}, mean {np.mean(each):.3f}; settings chosen: {', '.join(names)}; "
        f"{DESIGNED}; gradient boosting .860, logistic .841"
    )
    return figures("pooled, 5 folds", work, cohort, said, targets_of={DEATH: POOLED_TARGET}, note=note)


def external(work: Work, site: str) -> list[Figure]:
    """FedAvg over the other types of ICU, judged on one; beside it, the same patients trained on together."""
    began = time.monotonic()
    judged = work.cohorts[site]
    train = {name: cohort for name, cohort in work.cohorts.items() if name != site}
    name, inner = chosen_over_sites(work, train)
    said = work.told(train, judged, CANDIDATES[name])
    together = {POOLED: rows(work.pooled, _of(work, train))}
    at_once = auroc(judged, work.told(together, judged, CANDIDATES[name], batch=len(train)))
    print(
        f"{site:20} federated {auroc(judged, said):.3f}, pooled {at_once:.3f}, trees {TREES[site]:.3f} "
        f"({name}, within {inner:.3f})  {time.monotonic() - began:.0f} s",
        flush=True,
    )
    note = (
        f"settings chosen: {name}; the same three types pooled {at_once:.3f}; gradient boosting, pooled {TREES[site]}; "
        f"{DESIGNED}"
    )
    wanted = {DEATH: TREES[site]} if site == TARGET_SITE else {}
    return figures(f"federated, external {site}", work, judged, said, targets_of=wanted, note=note)


def _of(work: Work, train: Mapping[str, Cohort]) -> NDArray[np.int64]:
    """Rows of the pooled cohort that are of some sites."""
    sites = np.repeat([*work.cohorts], [len(cohort) for cohort in work.cohorts.values()])
    return np.flatnonzero(np.isin(sites, [*train]))


def figures(
    who: str, work: Work, judged: Cohort, said: Predictions, *, targets_of: Mapping[str, float], note: str
) -> list[Figure]:
    """Every metric with its interval; the target and the note stand at the AUROC of death."""
    found = []
    for key, (value, low, high) in work.measured(judged, said).items():
        if key not in WORDS:
            continue
        first = key == f"{DEATH} auroc"
        better = "lower" if key.split()[1] in ("brier", "mae") else "higher"
        found.append(
            Figure(
                what=f"{who}: {WORDS[key]}", value=value, low=low, high=high, better=better,
                target=targets_of.get(DEATH) if first else None,
                note=note if first else SAME_C if key == "survival harrell_c" else "",
            )
        )  # fmt: skip
        print(f"  {found[-1].what:70} {value:.4g} ({low:.4g} to {high:.4g})", flush=True)
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="the unmodified download")
    parser.add_argument("--external", default="icu_medical,icu_coronary,icu_cardiac_surgery,icu_surgical")
    parser.add_argument("--results", type=Path, default=targets.HERE / "results")
    args = parser.parse_args(argv)
    outside = args.external.split(",")
    if unknown := set(outside) - set(SITES.values()):
        parser.error(f"no such type of ICU: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        sites = Path(folder) / "sites"
        import_physionet_2012(args.source, sites)
        work = Work(sites)
        found = [figure for site in outside for figure in external(work, site)] + pooled(work)
    targets.keep(
        "physionet_2012",
        title="PhysioNet 2012: 3,001 ICU stays of four types of ICU as sites; death, length of stay and survival",
        command="python tests/benchmarks/physionet_2012.py --from ../shared/data/physionet-2012",
        figures=found,
        results=args.results,
    )


if __name__ == "__main__":
    main()
