"""Late fusion: a model of its own for each modality, whose predictions are averaged.

Each modality has a linear head a task on its encoder's pooled vector, trained on the rows that have it and by nothing
else: the average sends no gradient back. Logits are averaged, not probabilities. For a binary or multiclass task that
is the logarithmic opinion pool (Genest and Zidek 1986): less cautious than the mean probability where modalities
differ, but the one mean that every task has a meaning for: log odds of a hazard, log scale and shape, log relative
hazards, and of a squared error the very mean of the predictions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fl_shared.models.fusion.own_heads import OwnHeads, mean_present, told
from fl_shared.models.interface import AuxLogits, EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.registry import FUSIONS


class LateAverageFusion(Fusion):
    """Pooled vectors, as wide as their encoders -> mean of the present modalities' logits."""

    needs = frozenset({"pooled"})
    native_missing = True
    predicts = True

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self.modalities, self.tasks = spec.modalities, tuple(spec.tasks)
        self.out_features = sum(spec.widths[m] for m in spec.modalities)
        self.heads = nn.ModuleDict({m: OwnHeads(spec.widths[m], spec) for m in spec.modalities})

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """A prediction a modality, and their mean; ``fused`` are the vectors side by side, which no head reads."""
        there = [present[m] for m in self.modalities]
        each: dict[str, dict[str, Tensor]] = {m: heads(outputs[m].pooled) for m, heads in self.heads.items()}
        alone = tuple(AuxLogits(task=t, logits=z, rows=present[m]) for m in each for t, z in each[m].items())
        return FusionOutput(
            fused=torch.cat([outputs[m].pooled for m in self.modalities], dim=1),
            logits={
                t: told(mean_present([each[m][t] for m in each], there), training=self.training) for t in self.tasks
            },
            auxiliary={"tasks": alone},
        )


@FUSIONS.register(
    "late_average",
    source="late fusion; logarithmic opinion pool: Genest and Zidek 1986",
    native_missing=True,
    projects=False,
)
def build(spec: FusionSpec) -> LateAverageFusion:
    """The fusion of the study's modalities."""
    return LateAverageFusion(spec)
