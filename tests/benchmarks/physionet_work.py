"""The cohorts and studies of `physionet_2012.py`, fitted by the product's own trainers without processes."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold
from synthetic_systems import POOLED, together, trained

from fl_client.data.cohort import Cohort
from fl_client.data.load import load_cohort
from fl_client.training.judge import predict
from fl_client.training.rows import as_batch
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.models.build import build_model, load
from fl_shared.site import load_site
from fl_shared.study import Study, load_study

DEATH, SURVIVAL = "in_hospital_death", "survival"
INNER = 3  # folds within training rows, to choose settings
Changes = Mapping[str, Mapping[str, Any]]
Predictions = Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True)
class Work:
    """The sites of the importer and its study.

    Attributes:
        folder: what `fl-sites import physionet-2012` wrote.
    """

    folder: Path

    @cached_property
    def written(self) -> Study:
        """The importer's study."""
        return load_study(self.folder / "study.toml")

    @cached_property
    def cohorts(self) -> dict[str, Cohort]:
        """Every type of ICU, nobody held out: who judges is said by `rows`."""
        found = {n: load_cohort(load_site(self.folder / n), self.written)[0] for n in sorted(self.written.sites)}
        return {name: rows(cohort, np.arange(len(cohort))) for name, cohort in found.items()}

    @cached_property
    def pooled(self) -> Cohort:
        """All stays as one site's."""
        return together([*self.cohorts.values()])

    def study(self, train: Mapping[str, Cohort], changes: Changes, *, batch: int = 1) -> Study:
        """The importer's study with other sites and some other settings; ``batch`` times as many patients a step."""
        body = self.written.model_dump(mode="json", by_alias=True, exclude_none=True)
        body["sites"] = {n: {"role": "train", "patients": len(c.patient_ids)} for n, c in train.items()}
        body["rounds"] = {"quorum": 1}
        for section, values in changes.items():
            body[section] |= values
        body["training"]["batch"] *= batch
        body["training"]["rounds"] = sum(phase["rounds"] for phase in body["training"]["phases"])
        return Study.model_validate(body)

    def told(self, train: Mapping[str, Cohort], judged: Cohort, changes: Changes, *, batch: int = 1) -> Predictions:
        """Train on some sites, together when they are several; what the model says of the judged."""
        study = self.study(train, changes, batch=batch)
        with tempfile.TemporaryDirectory() as folder:
            arrays = trained(study, {n: renamed(c, n) for n, c in train.items()}, Path(folder))
        model = build_model(study)
        load(model, arrays)
        batch_of = as_batch(judged, device=torch.device("cpu"))
        subsets = {"all": tuple(study.modalities)}
        said = predict(model, batch_of, rows=np.arange(len(judged)), tasks=study.tasks, subsets=subsets)["all"]
        if not np.array_equal(said.rows, np.arange(len(judged))):
            raise RuntimeError("somebody was not judged")
        return said.predictions

    def measured(self, judged: Cohort, said: Predictions) -> dict[str, tuple[float, float, float]]:
        """``task metric`` (and ``day``) -> value and 95 % interval, by the product's metrics."""
        found = {}
        for task, plan in self.written.tasks.items():
            told, _ = evaluate_predictions(
                site=judged.site, role="external", task=task, plan=plan, modalities="all", model="all",
                predictions=said[task], targets=judged.targets[task], mask=judged.target_mask[task],
                patients=judged.patient, bootstrap=1000, seed=0, min_patients=10,
            )  # fmt: skip
            for row in told:
                if row.value is not None and row.ci_low is not None and row.ci_high is not None:
                    key = " ".join(filter(None, (task, row.metric, row.label)))
                    found[key] = (row.value, row.ci_low, row.ci_high)
        return found


def auroc(judged: Cohort, said: Predictions) -> float:
    """Of death in hospital."""
    return float(roc_auc_score(judged.targets[DEATH][:, 0], said[DEATH][:, 0]))


def folds(cohort: Cohort, count: int, *, seed: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to train on and rows to judge; a stay is a patient, and every fold has its share of the deaths."""
    dead = cohort.targets[DEATH][:, 0]
    return [*StratifiedKFold(count, shuffle=True, random_state=seed).split(dead, dead)]


def rows(cohort: Cohort, chosen: NDArray[np.int64]) -> Cohort:
    """Some rows of a cohort, nobody held out."""
    ids, patient = np.unique(cohort.patient[chosen], return_inverse=True)
    return replace(
        cohort,
        sample_ids=tuple(cohort.sample_ids[i] for i in chosen),
        patient_ids=tuple(cohort.patient_ids[i] for i in ids),
        patient=patient.astype(np.int64),
        held_out=np.zeros(len(ids), dtype=bool),
        inputs={m: {k: v[chosen] for k, v in named.items()} for m, named in cohort.inputs.items()},
        present={m: v[chosen] for m, v in cohort.present.items()},
        targets={t: v[chosen] for t, v in cohort.targets.items()},
        target_mask={t: v[chosen] for t, v in cohort.target_mask.items()},
    )


def renamed(cohort: Cohort, name: str) -> Cohort:
    """The same rows under the name of a site."""
    return replace(cohort, site=name)


def joined(parts: Sequence[Predictions], order: NDArray[np.int64]) -> dict[str, NDArray[np.floating]]:
    """Predictions of folds put together; ``order``: the rows that they are of, one after the other."""
    back = np.argsort(order)
    return {task: np.concatenate([part[task] for part in parts])[back] for task in parts[0]}


__all__ = ["DEATH", "INNER", "POOLED", "SURVIVAL", "Changes", "Work", "auroc", "folds", "joined", "rows"]
