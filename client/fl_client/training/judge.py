"""Predictions of a model on a site's rows, each modality alone and together, judged by `fl_shared.metrics`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_client.data.cohort import Cohort
from fl_shared.counts import risky_tasks
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.part import Part
from fl_shared.metrics.parts import judged_parts, predicted_shape
from fl_shared.metrics.segmentation import distances
from fl_shared.models.interface import Batch, take
from fl_shared.models.model import TASKS, MultimodalModel
from fl_shared.results import Curve, EvaluationRow
from fl_shared.site import Site
from fl_shared.study import Study, TaskPlan

ROWS = 256  # a forward pass
RECALIBRATED = "recalibrated"
DRAWN_ROWS = 8  # a segmentation gives a number a class and voxel
Shown = Mapping[str, NDArray[np.bool_]]
"""Modality -> (N,) whether a row of the cohort shows it, where it is there."""
Dropped = Mapping[str, tuple[int, ...]]
"""Table or events -> numbers of the fields that are read as not observed."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a model says of some rows of a cohort: task -> predictions (n, …), truth and where it is known (n, C).

    shares: modality -> its part (n,) in what is fused, where that was asked and the fusion says so.
    """

    rows: NDArray[np.int64]
    predictions: Mapping[str, NDArray[np.floating]]
    targets: Mapping[str, NDArray[np.floating]]
    mask: Mapping[str, NDArray[np.bool_]]
    shares: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)

    def some(self, chosen: NDArray[np.bool_]) -> Told:
        """Of the rows (n,) that are chosen."""
        return Told(
            rows=self.rows[chosen],
            predictions={task: each[chosen] for task, each in self.predictions.items()},
            targets={task: each[chosen] for task, each in self.targets.items()},
            mask={task: each[chosen] for task, each in self.mask.items()},
            shares={modality: each[chosen] for modality, each in self.shares.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Judge:
    """What is judged where."""

    study: Study
    site: Site
    cohort: Cohort

    def rows(self) -> NDArray[np.int64]:
        """Samples of the judged patients."""
        plan = self.study.sites[self.site.name]
        if plan.role == "train" or plan.judged == "held_out":
            return self.cohort.rows(held_out=True)
        return np.arange(len(self.cohort))

    def tasks(self, name: str) -> Mapping[str, TaskPlan]:
        """What is judged of a model: of the recalibrated one, that whose intercepts can be refitted."""
        return risky_tasks(self.study) if name == RECALIBRATED else self.study.tasks

    def evaluate(
        self, task: str, said: Told, *, modalities: str, model: str, gives_away: Collection[str] = ()
    ) -> tuple[list[EvaluationRow], list[Curve]]:
        """Rows and curves of one task from one set of modalities, without the number of events of some labels."""
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
            min_patients=self.fewest,
            gives_away=gives_away,
        )

    def parts(self, task: str, said: Told) -> list[Part]:
        """The labels of a task in these rows, with what may be said of each."""
        parts, _, _ = judged_parts(
            self.study.tasks[task],
            predictions=said.predictions[task],
            targets=said.targets[task],
            mask=said.mask[task],
            patients=self.cohort.patient[said.rows],
            min_patients=self.fewest,
        )
        return parts

    @property
    def fewest(self) -> int:
        """Patients below whom nothing is told: the stricter of study and site."""
        return max(self.study.evaluation.min_patients, self.site.privacy.min_patients)


@torch.no_grad()
def predict(
    model: MultimodalModel,
    batch: Batch,
    *,
    rows: NDArray[np.int64],
    tasks: Mapping[str, TaskPlan],
    subsets: Mapping[str, tuple[str, ...]],
    hidden: Mapping[str, Shown] | None = None,
    dropped: Mapping[str, Dropped] | None = None,
    shares_of: str | None = None,
) -> dict[str, Told]:
    """What the model says of ``rows`` from each subset of modalities; the encoders run once for all subsets.

    A row without any of a subset's modalities is left out of it.

    Args:
        model: what predicts.
        batch: all rows of the cohort.
        rows: of which to predict.
        tasks: what to predict.
        subsets: name -> modalities that are shown.
        hidden: further names -> which of all rows show each modality.
        dropped: such a name -> fields that it reads as not observed besides: their encoders run anew.
        shares_of: the name of which modalities' shares are told.
    """
    model.objective = TASKS
    model.eval()
    views = {name: _only(members, batch) for name, members in subsets.items()} | _tensors(hidden or {}, batch)
    chosen: dict[str, list[NDArray[np.int64]]] = {name: [] for name in views}
    parts: dict[str, list[Mapping[str, Tensor]]] = {name: [] for name in views}
    shares: dict[str, list[Mapping[str, Tensor]]] = {name: [] for name in views}
    inputs = replace(batch, targets={}, target_mask={})
    for start in range(0, len(rows), ROWS):
        here = rows[start : start + ROWS]
        part = take(inputs, here)
        part = model.with_features(part)
        for name, view in views.items():
            shown = {m: there[here] for m, there in view.items()}
            kept = torch.stack([*shown.values()]).any(0).nonzero()[:, 0]
            if not len(kept):
                continue
            seen = take(replace(_without(part, (dropped or {}).get(name, {})), present=shown), kept)
            chosen[name].append(here[kept.cpu().numpy()])
            parts[name].append({task: said.cpu() for task, said in model.predict(model(seen).logits).items()})
            if name == shares_of and (weighed := model.shares(seen)) is not None:
                shares[name].append({modality: share.cpu() for modality, share in weighed.items()})
    return {name: _told(batch, tasks, chosen[name], parts[name], shares[name]) for name in views}


def _without(part: Batch, dropped: Dropped) -> Batch:
    """Rows that read fields as not observed, and have no features that knew them."""
    inputs = dict(part.inputs)
    for modality, fields in dropped.items():
        named = {key: array.clone() for key, array in inputs[modality].items()}
        for key in ("values", "observed"):
            named[key][..., list(fields)] = 0
        inputs[modality] = named
    features = {modality: kept for modality, kept in part.features.items() if modality not in dropped}
    return replace(part, inputs=inputs, features=features)


def _only(members: tuple[str, ...], batch: Batch) -> dict[str, Tensor]:
    """Where each modality is shown (N,): that of the members where it is there, no other."""
    return {m: there if m in members else torch.zeros_like(there) for m, there in batch.present.items()}


def _tensors(hidden: Mapping[str, Shown], batch: Batch) -> dict[str, dict[str, Tensor]]:
    there = batch.present
    return {
        name: {m: there[m] & torch.from_numpy(shown[m]).to(there[m].device) for m in there}
        for name, shown in hidden.items()
    }


def _told(
    batch: Batch,
    tasks: Mapping[str, TaskPlan],
    chosen: list[NDArray[np.int64]],
    parts: list[Mapping[str, Tensor]],
    shares: list[Mapping[str, Tensor]],
) -> Told:
    rows = np.concatenate([np.zeros(0, np.int64), *chosen])
    empty = {task: np.zeros((0, *predicted_shape(plan)), np.float32) for task, plan in tasks.items()}
    return Told(
        rows=rows,
        predictions={task: np.concatenate([empty[task], *(part[task].numpy() for part in parts)]) for task in tasks},
        targets={task: batch.targets[task].cpu().numpy()[rows] for task in tasks},
        mask={task: batch.target_mask[task].cpu().numpy()[rows] for task in tasks},
        shares={m: np.concatenate([part[m].numpy() for part in shares]) for m in (shares[0] if shares else ())},
    )


@torch.no_grad()
def segment(model: MultimodalModel, batch: Batch, *, rows: NDArray[np.int64], tasks: Mapping[str, TaskPlan]) -> Told:
    """Voxels and distances of each structure in those of ``rows`` in which somebody drew; no map is kept."""
    model.objective = TASKS
    model.eval()
    of = {task: str(plan.modality) for task, plan in tasks.items()}
    drawn = {task: batch.present[m] & batch.target_mask[task].flatten(1).any(1) for task, m in of.items()}
    rows = rows[torch.stack([*drawn.values()]).any(0).cpu().numpy()[rows]]
    needed = replace(
        batch,
        inputs=batch.inputs if model.staged else {m: batch.inputs[m] for m in set(of.values())},
        targets={task: batch.targets[task] for task in tasks},
        target_mask={task: batch.target_mask[task] for task in tasks},
        features={},
    )
    counts = {task: [np.zeros((0, len(plan.labels), 5))] for task, plan in tasks.items()}
    for start in range(0, len(rows), DRAWN_ROWS):
        part = take(needed, rows[start : start + DRAWN_ROWS])
        for task, labels in model.predict(model.segment(part)).items():
            drawing = labels, part.targets[task], part.target_mask[task]
            found = voxels(*drawing, structures=len(tasks[task].labels)).cpu().numpy()
            far = apart(*drawing, spacing=part.inputs[of[task]]["spacing"], structures=len(tasks[task].labels))
            counts[task].append(np.concatenate([found[..., :2], far, found[..., 2:]], axis=-1))
    whole = {task: np.concatenate(each).astype(np.float64) for task, each in counts.items()}
    known = {task: there.cpu().numpy()[rows] for task, there in drawn.items()}
    return Told(
        rows=rows,
        predictions={task: count[..., :4] for task, count in whole.items()},
        targets={task: count[..., 4] for task, count in whole.items()},
        mask={task: np.repeat(known[task][:, None], len(plan.labels), axis=1) for task, plan in tasks.items()},
    )


def apart(predicted: Tensor, target: Tensor, mask: Tensor, *, spacing: Tensor, structures: int) -> NDArray[np.float64]:
    """HD95 (B, structures, 2) of what `voxels` counts: sum in mm and number of frames.

    spacing: (B, 3) mm of rows, columns and slices.
    """
    across = spacing[:, [2, 0, 1]].tolist()
    drawn = zip(predicted.cpu().numpy(), target.cpu().numpy(), mask.cpu().numpy(), across, strict=True)
    return np.stack([distances(p, t, m, spacing=mm, structures=structures) for p, t, m, mm in drawn])


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
