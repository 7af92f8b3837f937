"""Unified (Hayat et al. 2021; a baseline of MedFuse): shared encoders and a head for every set of modalities.

Every head reads the pooled vectors of its set side by side and learns from all rows that have the whole set, the losses
summed: with two modalities one head each and one of both. A row is predicted by the head of exactly what it has, and
nothing stands in for what is absent. No released code trains it; the sum over sets is the text's.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor, nn

from fl_shared.models.fusion.own_heads import OwnHeads, told
from fl_shared.models.fusion.refused import refused
from fl_shared.models.interface import AuxLogits, EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.registry import FUSIONS

MOST = 5  # modalities: 31 heads a task


class UnifiedFusion(Fusion):
    """Pooled vectors -> the logits of the row's own set.

    Attributes:
        heads: set, its modalities in the order of the study joined by "@" -> a head a task.
    """

    needs = frozenset({"pooled"})
    native_missing = True
    predicts = True

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self.modalities = names = spec.modalities
        self.out_features = sum(spec.widths[m] for m in names)
        self.sets = [chosen for n in range(1, len(names) + 1) for chosen in combinations(names, n)]
        self.heads = nn.ModuleDict({"@".join(s): OwnHeads(sum(spec.widths[m] for m in s), spec) for s in self.sets})

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """A prediction a set, and the row's own; ``fused`` are the vectors side by side, which no head reads."""
        there = torch.stack([present[m] for m in self.modalities], dim=1)
        sets = torch.tensor([[m in s for m in self.modalities] for s in self.sets], device=there.device)
        whole = (there[:, None] | ~sets).all(2)
        exact = (there[:, None] == sets).all(2)
        logits: dict[str, Tensor] = {}
        each = []
        for n, (chosen, heads) in enumerate(zip(self.sets, self.heads.values(), strict=True)):
            found: dict[str, Tensor] = heads(torch.cat([outputs[m].pooled for m in chosen], dim=1))
            for task, z in found.items():
                each.append(AuxLogits(task=task, logits=z, rows=whole[:, n]))
                own = torch.where(exact[:, n, None], told(z, training=self.training), 0.0)
                logits[task] = logits[task] + own if task in logits else own
        fused = torch.cat([outputs[m].pooled for m in self.modalities], dim=1)
        return FusionOutput(fused=fused, logits=logits, auxiliary={"tasks": tuple(each)})


@FUSIONS.register("unified", source="Hayat et al. 2021 (Unified), after MedFuse, section 4.3", native_missing=True)
def build(spec: FusionSpec) -> UnifiedFusion:
    """The fusion of the study's modalities.

    Raises:
        ConsiliumError: so many modalities that their sets are too many (exit code 10).
    """
    if (n := len(spec.modalities)) > MOST:
        problem = f"{n} modalities have {2**n - 1} sets, each with heads of its own"
        raise refused("fusion", value="unified", problem=problem, mend=f"Leave {MOST} modalities, or choose another.")
    return UnifiedFusion(spec)
