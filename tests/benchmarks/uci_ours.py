"""Ours on FLamby's test rows: the importer's study over the same four hospitals, held out exactly as published.

Tables as the reader gives them: all 13 fields by their concepts, missing values kept. FLamby drops three columns, and
then every row with a gap: here those 180 rows are trained on too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from uci_flamby import Centre, dealt, read_centres

from fl_client.data.cohort import Cohort
from fl_client.data.load import load_cohort
from fl_client.training.judge import predict
from fl_client.training.loop import Trainer
from fl_client.training.rows import as_batch
from fl_server.aggregation import aggregate
from fl_shared.models.build import build_model, load, select
from fl_shared.site import Site, load_site
from fl_shared.study import Study, load_study
from fl_sites.importers.uci_heart import import_uci_heart

TASK = "disease"

Risks: TypeAlias = Mapping[str, NDArray[np.floating]]
"""Hospital -> predicted risks of its judged rows."""
Changes: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Section of the study -> what is written there."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """centres: FLamby's; study: the importer's; sites, cohorts: hospital -> ours, held out as published."""

    centres: Mapping[str, Centre]
    study: Study
    sites: Mapping[str, Site]
    cohorts: Mapping[str, Cohort]


def prepare(source: Path, folder: Path) -> Work:
    """Read FLamby's tables and import ours; a row keeps its place in the source's file in both."""
    centres = read_centres(source)
    study = load_study(import_uci_heart(source, folder).study)
    sites = {name: load_site(folder / name) for name in centres}
    cohorts = {}
    for name, centre in centres.items():
        cohort, _ = load_cohort(sites[name], study, workers=1)
        if cohort.sample_ids != cohort.patient_ids:
            raise ValueError(f"{name}: not one row a patient")
        judged = {f"{name}_{number:03d}" for number in centre.numbers[centre.test]}
        cohorts[name] = replace(cohort, held_out=np.array([patient in judged for patient in cohort.patient_ids]))
    return Work(centres=centres, study=study, sites=sites, cohorts=cohorts)


def only(cohort: Cohort, rows: NDArray[np.bool_]) -> Cohort:
    """Some rows of a cohort of one row a patient."""
    ids = tuple(patient for patient, there in zip(cohort.patient_ids, rows, strict=True) if there)
    return replace(
        cohort,
        sample_ids=ids,
        patient_ids=ids,
        patient=np.arange(len(ids)),
        held_out=cohort.held_out[rows],
        inputs={m: {key: array[rows] for key, array in named.items()} for m, named in cohort.inputs.items()},
        present={m: array[rows] for m, array in cohort.present.items()},
        targets={task: array[rows] for task, array in cohort.targets.items()},
        target_mask={task: array[rows] for task, array in cohort.target_mask.items()},
    )


def inner_folds(cohorts: Mapping[str, Cohort], *, number: int, seed: int) -> Iterator[dict[str, Cohort]]:
    """The training rows alone, each held out once."""
    draw = np.random.default_rng(seed)
    known = {name: only(cohort, ~cohort.held_out) for name, cohort in cohorts.items()}
    part = {n: dealt(c.targets[TASK][:, 0], number=number, draw=draw) for n, c in known.items()}
    for fold in range(number):
        yield {name: replace(cohort, held_out=part[name] == fold) for name, cohort in known.items()}


def study_of(written: Study, cohorts: Mapping[str, Cohort], changes: Changes, *, seed: int) -> Study:
    """The importer's study, but all hospitals train."""
    body = written.model_dump(mode="json", by_alias=True, exclude_none=True)
    fields = body["modalities"]["ehr"]["fields"]
    training = {key: body["training"][key] for key in ("rounds", "steps", "batch", "learning_rate", "encoders")}
    patients = {name: int((~cohort.held_out).sum()) for name, cohort in cohorts.items()}
    return Study.model_validate(
        body
        | {
            "seed": seed,
            "sites": {name: {"role": "train", "patients": n} for name, n in patients.items()},
            "modalities": {"ehr": {"kind": "table", "fields": fields, **changes.get("modalities", {})}},
            "model": {"system": "attention", "width": 32, **changes.get("model", {})},
            "training": {**training, **changes.get("training", {})},
        }
    )


def ours(
    study: Study, sites: Mapping[str, Site], cohorts: Mapping[str, Cohort], *, finetune: Sequence[int]
) -> dict[int, Risks]:
    """Steps after the last round (0: the common model) -> risks of the held-out rows."""
    with tempfile.TemporaryDirectory() as scratch:
        here = {name: site.model_copy(update={"state": Path(scratch) / name}) for name, site in sites.items()}
        trainers = {name: Trainer(study=study, site=here[name], cohort=cohorts[name]) for name in study.train_sites}
        state: Mapping[str, Any] = {}
        common: Mapping[str, Any] = select(build_model(study))
        for number in range(1, study.training.rounds + 1):
            updates = {n: t.train(round=number, base=common, sigma=None) for n, t in trainers.items()}
            common, state = aggregate(study=study, round_number=number, base=common, updates=updates, state=state)
        found: dict[int, Risks] = {0: {name: risks(study, cohort, common) for name, cohort in cohorts.items()}}
        after = study.training.rounds + 1
        for steps in finetune:  # as the product's 'personal' model with training.finetune
            more = study.model_copy(update={"training": study.training.model_copy(update={"steps": steps})})
            found[steps] = {}
            for name, cohort in cohorts.items():
                trainer = Trainer(study=more, site=here[name], cohort=cohort)
                mine = trainer.train(round=after, base=common, sigma=None)
                found[steps] = {**found[steps], name: risks(study, cohort, mine)}
    return found


def risks(study: Study, cohort: Cohort, arrays: Mapping[str, Any]) -> NDArray[np.floating]:
    """Of the held-out rows, in the cohort's order."""
    model = build_model(study)
    load(model, arrays)
    batch, rows = as_batch(cohort, device=torch.device("cpu")), cohort.rows(held_out=True)
    told = predict(model, batch, rows=rows, tasks=study.tasks, subsets={"all": tuple(study.modalities)})["all"]
    said: NDArray[np.floating] = told.predictions[TASK][:, 0]
    return said


def truths(cohorts: Mapping[str, Cohort]) -> Risks:
    """Outcomes of the held-out rows."""
    return {name: cohort.targets[TASK][cohort.rows(held_out=True), 0] for name, cohort in cohorts.items()}
