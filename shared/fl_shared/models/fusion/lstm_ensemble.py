"""Two of MedFuse's fusions, each with heads of its own, whose predictions are averaged.

Stands for an ensemble of two whole MedFuse models (Hayat et al. 2022), whose members no source at hand describes. Two
whole models would have encoders of their own and could be trained on different patients; here the members share the
encoders and the rows, and differ in where they start. Each is trained by its own loss: the average (of logits: see
`late_average`) sends no gradient back.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fl_shared.models.fusion.lstm import LstmFusion
from fl_shared.models.fusion.own_heads import OwnHeads, told
from fl_shared.models.interface import AuxLogits, EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.registry import FUSIONS

MEMBERS = 2


class LstmEnsembleFusion(Fusion):
    """Pooled vectors of the present modalities -> mean of the members' logits; fused (B, 4 d): their last states."""

    needs = frozenset({"pooled"})
    native_missing = True
    predicts = True

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        width = spec.model.width
        members = [LstmFusion(modalities=spec.modalities, width=width) for _ in range(MEMBERS)]
        self.members = nn.ModuleList(members)
        self.heads = nn.ModuleList(OwnHeads(member.out_features, spec) for member in members)
        self.out_features = sum(member.out_features for member in members)

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """A prediction a member, and their mean."""
        states = [member(outputs, present).fused for member in self.members]
        each: list[dict[str, Tensor]] = [heads(x) for x, heads in zip(states, self.heads, strict=True)]
        everyone = torch.ones_like(next(iter(present.values())))
        own = tuple(AuxLogits(task=task, logits=z, rows=everyone) for found in each for task, z in found.items())
        mean = {task: torch.stack([found[task] for found in each]).mean(0) for task in each[0]}
        return FusionOutput(
            fused=torch.cat(states, dim=1),
            logits={task: told(z, training=self.training) for task, z in mean.items()},
            auxiliary={"tasks": own},
        )


@FUSIONS.register("lstm_ensemble", source="Hayat et al. 2022 (MedFuse), ensemble of two", native_missing=True)
def build(spec: FusionSpec) -> LstmEnsembleFusion:
    """The fusion of the study's modalities."""
    return LstmEnsembleFusion(spec)
