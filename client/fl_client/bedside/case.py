"""One record of a patient in front of a model: its numbers, and the same record with parts changed or taken away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fl_client.bedside.targets import Target, scores, targets_of
from fl_client.data.cohort import Cohort
from fl_shared.models.fusion.shapley import shapley
from fl_shared.models.interface import Batch, EncoderOutput, take
from fl_shared.models.model import TASKS, MultimodalModel
from fl_shared.study import Study

ROWS = 64  # records a pass


def ready(model: MultimodalModel) -> MultimodalModel:
    """The model as it predicts; gradients are taken of inputs only."""
    model.objective = TASKS
    return model.eval().requires_grad_(False)


@torch.no_grad()
def predictions(model: MultimodalModel, study: Study, cohort: Cohort) -> dict[Target, NDArray[np.float64]]:
    """Scores (N,) of every target for all records of a cohort."""
    found: dict[Target, list[Tensor]] = {target: [] for target in targets_of(study)}
    for start in range(0, len(cohort), ROWS):
        batch = records(cohort, range(start, min(start + ROWS, len(cohort))))
        for target, each in scores(model, study, model(batch).logits).items():
            found[target].append(each)
    return {target: torch.cat(parts).numpy() for target, parts in found.items()}


def records(cohort: Cohort, rows: Sequence[int]) -> Batch:
    """Some records as a batch without outcomes."""
    chosen = np.asarray(rows, dtype=np.int64)

    def tensor(array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(np.array(array[chosen]))

    return Batch(
        inputs={m: {key: tensor(array) for key, array in named.items()} for m, named in cohort.inputs.items()},
        present={m: tensor(there) for m, there in cohort.present.items()},
        targets={},
        target_mask={},
        index=tensor(cohort.patient),
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """A record and the model that reads it; ``batch`` has one row, with what each encoder gives of it as features."""

    model: MultimodalModel
    study: Study
    batch: Batch

    @classmethod
    def of(cls, model: MultimodalModel, study: Study, batch: Batch) -> Case:
        """The case of a batch of one row. The model is `ready`."""
        return cls(model=model, study=study, batch=model.with_features(batch))

    @property
    def present(self) -> tuple[str, ...]:
        """Modalities that this record has, in the study's order."""
        return tuple(name for name in self.study.modalities if bool(self.batch.present[name][0]))

    @property
    def missing(self) -> tuple[str, ...]:
        """Modalities of the study that it has not."""
        return tuple(name for name in self.study.modalities if name not in self.present)

    def scores(self) -> dict[Target, float]:
        """Every target, on the scale of `fl_client.bedside.targets.scores`."""
        return {target: float(each[0]) for target, each in self._scores(self.batch).items()}

    def with_only(self, members: Sequence[str]) -> dict[Target, float]:
        """As `scores`, from some of the present modalities (one at least)."""
        shown = {m: there & (m in members) for m, there in self.batch.present.items()}
        return {target: float(each[0]) for target, each in self._scores(replace(self.batch, present=shown)).items()}

    def contributions(self, start: Mapping[Target, float]) -> dict[Target, dict[str, float]]:
        """Exact Shapley values of the present modalities, over all their sets: target -> modality -> part of the score.

        ``start`` is the score with no modality at all, where no model can be asked; the parts sum to the score less it.
        """
        names, asked = self.present, targets_of(self.study)
        empty = torch.tensor([start[target] for target in asked], dtype=torch.float64)

        def value(member: Tensor) -> Tensor:
            inside = [name for name, there in zip(names, member.tolist(), strict=True) if there]
            if not inside:
                return empty
            told = self.with_only(inside)
            return torch.tensor([told[target] for target in asked], dtype=torch.float64)

        whole = torch.ones(len(names), dtype=torch.float64)
        found = shapley(value, whole, baseline=torch.zeros_like(whole))
        return {
            target: dict(zip(names, parts, strict=True)) for target, parts in zip(asked, found.tolist(), strict=True)
        }

    def inputs(self, modality: str) -> Mapping[str, Tensor]:
        """What the record holds of a modality, (1, …) each."""
        return self.batch.inputs[modality]

    def score_of(self, target: Target, modality: str, inputs: Mapping[str, Tensor]) -> Tensor:
        """The target (n,) for n versions of a modality's inputs, (n or 1, …) each, all else as it is."""
        return self._scores(self._with(modality, inputs))[target]

    def score_and_output(
        self, target: Target, modality: str, inputs: Mapping[str, Tensor]
    ) -> tuple[Tensor, EncoderOutput]:
        """As `score_of`, and what the modality's encoder gave on the way."""
        logits, encoded = self.model.traced(self._with(modality, inputs))
        return scores(self.model, self.study, logits)[target], encoded[modality]

    def _with(self, modality: str, inputs: Mapping[str, Tensor]) -> Batch:
        """n rows that have these inputs; the other encoders run anew only where the fusion acts inside them."""
        n = max(len(each) for each in inputs.values())
        others = {m: named for m, named in self.batch.inputs.items() if m not in self.batch.features}
        rows = take(replace(self.batch, inputs=others), torch.zeros(n, dtype=torch.int64))
        grown = {key: each if len(each) == n else each.expand(n, *each.shape[1:]) for key, each in inputs.items()}
        features = {m: output for m, output in rows.features.items() if m != modality}
        return replace(rows, inputs={**rows.inputs, modality: grown}, features=features)

    def _scores(self, batch: Batch) -> dict[Target, Tensor]:
        return scores(self.model, self.study, self.model(batch).logits)
