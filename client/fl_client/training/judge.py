"""Predictions of a model on a site's rows, each modality alone and together, judged by `fl_shared.metrics`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_client.data.cohort import Cohort
from fl_shared.counts import risky_tasks, subsets
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.parts import predicted_shape
from fl_shared.models.interface import Batch, take
from fl_shared.models.model import TASKS, MultimodalModel
from fl_shared.results import Curve, EvaluationRow
from fl_shared.site import Site
from fl_shared.study import Study, TaskPlan

ROWS = 256  # a forward pass
RECALIBRATED = "recalibrated"
DRAWN_ROWS = 8  # a segmentation gives a number a class and voxel


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a model says of some rows of a cohort: task -> predictions (n, …), truth and where it is known (n, C)."""

    rows: NDArray[np.int64]
    predictions: Mapping[str, NDArray[np.floating]]
    targets: Mapping[str, NDArray[np.floating]]
    mask: Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What is judged where."""

    study: Study
    site: Site
    cohort: Cohort

    def __call__(
        self, model: MultimodalModel, batch: Batch, *, name: str = "federated"
    ) -> tuple[list[EvaluationRow], list[Curve]]:
        """Rows and curves of every subset of modalities and every task; ``batch`` holds all rows of the cohort.

        A training site is judged on its held-out patients, an external site on all. A row without any of a subset's
        modalities is left out of that subset. Segmentations see their own modality only: told once, as ``all``.
        """
        judged, asked = self.rows(), self.tasks(name)
        tasks = {task: plan for task, plan in asked.items() if plan.modality is None}
        drawn = {task: plan for task, plan in asked.items() if plan.modality is not None}
        rows: list[EvaluationRow] = []
        curves: list[Curve] = []
        told: list[tuple[str, Told]] = []
        if tasks:
            told += predict(model, batch, rows=judged, tasks=tasks, subsets=subsets(self.study)).items()
        if drawn:
            told.append(("all", segment(model, batch, rows=judged, tasks=drawn)))
        for subset, said in told:
            for task in said.predictions:
                found, points = self._evaluate(task, said, modalities=subset, model=name)
                rows += found
                curves += points
        return rows, curves

    def rows(self) -> NDArray[np.int64]:
        """Samples of the judged patients."""
        if self.study.sites[self.site.name].role == "train":
            return self.cohort.rows(held_out=True)
        return np.arange(len(self.cohort))

    def tasks(self, name: str) -> Mapping[str, TaskPlan]:
        """What is judged of a model: of the recalibrated one, that whose intercepts can be refitted."""
        return risky_tasks(self.study) if name == RECALIBRATED else self.study.tasks

    def _evaluate(
        self, task: str, said: Told, *, modalities: str, model: str
    ) -> tuple[list[EvaluationRow], list[Curve]]:
        study = self.study
        return evaluate_predictions(
            site=self.site.name,
            role=study.sites[self.site.name].role,
            task=task,
            plan=study.tasks[task],
            modalities=modalities,
            model=model,
            predictions=said.predictions[task],
            targets=said.targets[task],
            mask=said.mask[task],
            patients=self.cohort.patient[said.rows],
            bootstrap=study.evaluation.bootstrap,
            seed=study.seed,
            min_patients=max(study.evaluation.min_patients, self.site.privacy.min_patients),
        )


@torch.no_grad()
def predict(
    model: MultimodalModel,
    batch: Batch,
    *,
    rows: NDArray[np.int64],
    tasks: Mapping[str, TaskPlan],
    subsets: Mapping[str, tuple[str, ...]],
) -> dict[str, Told]:
    """What the model says of ``rows`` from each subset of modalities; the encoders run once for all subsets."""
    model.objective = TASKS
    model.eval()
    chosen: dict[str, list[NDArray[np.int64]]] = {subset: [] for subset in subsets}
    parts: dict[str, list[Mapping[str, Tensor]]] = {subset: [] for subset in subsets}
    inputs = replace(batch, targets={}, target_mask={})
    for start in range(0, len(rows), ROWS):
        here = rows[start : start + ROWS]
        part = take(inputs, here)
        part = replace(part, inputs={}, features={name: model.features(name, part) for name in part.present})
        for subset, members in subsets.items():
            kept = torch.stack([part.present[m] for m in members]).any(0).nonzero()[:, 0]
            if not len(kept):
                continue
            shown = {m: there if m in members else torch.zeros_like(there) for m, there in part.present.items()}
            logits = model(take(replace(part, present=shown), kept)).logits
            chosen[subset].append(here[kept.cpu().numpy()])
            parts[subset].append({task: said.cpu() for task, said in model.predict(logits).items()})
    return {subset: _told(batch, tasks, chosen[subset], parts[subset]) for subset in subsets}


def _told(
    batch: Batch,
    tasks: Mapping[str, TaskPlan],
    chosen: list[NDArray[np.int64]],
    parts: list[Mapping[str, Tensor]],
) -> Told:
    rows = np.concatenate([np.zeros(0, np.int64), *chosen])
    empty = {task: np.zeros((0, *predicted_shape(plan)), np.float32) for task, plan in tasks.items()}
    return Told(
        rows=rows,
        predictions={task: np.concatenate([empty[task], *(part[task].numpy() for part in parts)]) for task in tasks},
        targets={task: batch.targets[task].cpu().numpy()[rows] for task in tasks},
        mask={task: batch.target_mask[task].cpu().numpy()[rows] for task in tasks},
    )


@torch.no_grad()
def segment(model: MultimodalModel, batch: Batch, *, rows: NDArray[np.int64], tasks: Mapping[str, TaskPlan]) -> Told:
    """Voxels of each structure in those of ``rows`` in which somebody drew: counted at once, no map is kept."""
    model.eval()
    of = {task: str(plan.modality) for task, plan in tasks.items()}
    drawn = {task: batch.present[m] & batch.target_mask[task].flatten(1).any(1) for task, m in of.items()}
    rows = rows[torch.stack([*drawn.values()]).any(0).cpu().numpy()[rows]]
    needed = replace(
        batch,
        inputs={m: batch.inputs[m] for m in set(of.values())},
        targets={task: batch.targets[task] for task in tasks},
        target_mask={task: batch.target_mask[task] for task in tasks},
        features={},
    )
    counts = {task: [np.zeros((0, len(plan.labels), 3))] for task, plan in tasks.items()}
    for start in range(0, len(rows), DRAWN_ROWS):
        part = take(needed, rows[start : start + DRAWN_ROWS])
        for task, labels in model.predict(model.segment(part)).items():
            found = voxels(labels, part.targets[task], part.target_mask[task], structures=len(tasks[task].labels))
            counts[task].append(found.cpu().numpy())
    whole = {task: np.concatenate(each).astype(np.float64) for task, each in counts.items()}
    known = {task: there.cpu().numpy()[rows] for task, there in drawn.items()}
    return Told(
        rows=rows,
        predictions={task: count[..., :2] for task, count in whole.items()},
        targets={task: count[..., 2] for task, count in whole.items()},
        mask={task: np.repeat(known[task][:, None], len(plan.labels), axis=1) for task, plan in tasks.items()},
    )


def voxels(predicted: Tensor, target: Tensor, mask: Tensor, *, structures: int) -> Tensor:
    """Voxels (B, structures, 3) predicted, predicted and drawn, drawn, of label maps (B, frames, slices, size, size).

    mask: (B, frames, slices) where somebody drew; nothing else counts.
    """
    within = mask[..., None, None]
    each = []
    for number in range(1, structures + 1):
        guess, truth = (predicted == number) & within, (target == number) & within
        each.append(torch.stack([part.flatten(1).sum(1) for part in (guess, guess & truth, truth)], dim=1))
    return torch.stack(each, dim=1)
