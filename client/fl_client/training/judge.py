"""Predictions of a model on a site's rows, each modality alone and together, judged by `fl_shared.metrics`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client.data.cohort import Cohort
from fl_client.training.rows import take
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.models.interface import Batch
from fl_shared.models.systems.attention import MultimodalModel
from fl_shared.results import Curve, EvaluationRow
from fl_shared.site import Site
from fl_shared.study import Study

ROWS = 256  # a forward pass


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What is judged where."""

    study: Study
    site: Site
    cohort: Cohort

    def __call__(self, model: MultimodalModel, batch: Batch) -> tuple[list[EvaluationRow], list[Curve]]:
        """Rows and curves of every subset of modalities and every task; ``batch`` holds all rows of the cohort.

        A training site is judged on its held-out patients, an external site on all. A row without any of a subset's
        modalities is left out of that subset.
        """
        study, role = self.study, self.study.sites[self.site.name].role
        judged = self.cohort.rows(held_out=True) if role == "train" else np.arange(len(self.cohort))
        rows: list[EvaluationRow] = []
        curves: list[Curve] = []
        for subset, members in subsets(study).items():
            there = np.any([self.cohort.present[m][judged] for m in members], axis=0)
            chosen = judged[there]
            scores = predict(model, batch, rows=chosen, members=members)
            for task, plan in study.tasks.items():
                found, drawn = evaluate_predictions(
                    site=self.site.name,
                    role=role,
                    task=task,
                    labels=plan.names,
                    headline=plan.headline,
                    modalities=subset,
                    model="federated",
                    scores=scores[task],
                    targets=self.cohort.targets[task][chosen],
                    mask=self.cohort.target_mask[task][chosen],
                    patients=self.cohort.patient[chosen],
                    bootstrap=study.evaluation.bootstrap,
                    seed=study.seed,
                    min_patients=max(study.evaluation.min_patients, self.site.privacy.min_patients),
                )
                rows += found
                curves += drawn
        return rows, curves


def subsets(study: Study) -> dict[str, tuple[str, ...]]:
    """Name in the results -> modalities that the model sees."""
    names = tuple(study.modalities)
    alone = {name: (name,) for name in names} if len(names) > 1 else {}
    clean = tuple(name for name, plan in study.modalities.items() if not plan.leaky)
    headline = {"headline": clean} if clean and clean != names else {}
    return {**alone, "all": names, **headline}


@torch.no_grad()
def predict(
    model: MultimodalModel, batch: Batch, *, rows: NDArray[np.int64], members: tuple[str, ...]
) -> Mapping[str, NDArray[np.float32]]:
    """Task -> probabilities (N, C) of ``rows``, from the modalities ``members`` only."""
    model.eval()
    parts: list[dict[str, torch.Tensor]] = []
    for start in range(0, len(rows), ROWS):
        part = take(batch, rows[start : start + ROWS])
        present = {m: there if m in members else torch.zeros_like(there) for m, there in part.present.items()}
        parts.append(model.predict(model(replace(part, present=present))))
    sizes = {task: batch.targets[task].shape[1] for task in batch.targets}
    return {
        task: torch.cat([part[task] for part in parts]).cpu().numpy() if parts else np.zeros((0, size), np.float32)
        for task, size in sizes.items()
    }
