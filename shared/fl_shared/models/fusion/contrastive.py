"""Contrastive alignment of modalities in two steps (cross-modal alignment for time-to-event).

Step 1 (objective ``contrastive``) brings the projections of a patient's modalities together by symmetric InfoNCE
(van den Oord et al. 2018, eq. 4; both directions as in Radford et al. 2021, section 2.3); step 2 trains heads on them.

No privacy: each patient's loss holds all other patients of the batch, so that no patient's gradient can be bounded.
The fused vector itself is per patient. Two rows of one patient would be told apart as strangers: fusions see no
patient numbers. Steps draw one record a patient, so it does not arise there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.fusion.refused import refused
from fl_shared.models.interface import EncoderOutput, Fusion, FusionOutput, FusionSpec
from fl_shared.models.registry import FUSIONS

START, LOWEST, HIGHEST = 0.07, 0.01, 1.0  # temperature; 0.01 as in Radford et al. 2021
_SHARE = math.log(START / LOWEST) / math.log(HIGHEST / LOWEST)


class Temperature(nn.Module):
    """Between 0.01 and 1, from 0.07; a hard clamp would have no gradient to come back from its ends."""

    initial: ClassVar[Mapping[str, float]] = {"logit": math.log(_SHARE / (1 - _SHARE))}

    def __init__(self) -> None:
        super().__init__()
        self.logit = nn.Parameter(torch.full((1,), self.initial["logit"]))

    def forward(self) -> Tensor:
        """(1,)."""
        return LOWEST * (HIGHEST / LOWEST) ** self.logit.sigmoid()


class ContrastiveFusion(Fusion):
    """Aligned vectors side by side, fused (B, M * d), and what each row adds to the alignment loss.

    A vector's direction is what was aligned, so its length is dropped: each has mean square 1, an absent one is 0. A
    learned one would stay untrained: only pairs enter step 1, only heads learn in step 2.
    """

    needs = frozenset({"pooled"})
    native_missing = True

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        self.modalities = spec.modalities
        self.out_features = len(spec.modalities) * spec.model.width
        self.temperature = Temperature()

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """losses["contrastive"] (B,): sum over pairs of modalities; its mean over rows is the paper's loss."""
        unit = {m: F.normalize(outputs[m].pooled, dim=1) * present[m][:, None] for m in self.modalities}
        temperature = self.temperature()
        each = [
            info_nce(unit[a], unit[b], present[a] & present[b], temperature)
            for a, b in combinations(self.modalities, 2)
        ]
        fused = torch.cat(list(unit.values()), dim=1) * math.sqrt(self.out_features / len(unit))
        return FusionOutput(fused=fused, losses={"contrastive": torch.stack(each).sum(0)})


def info_nce(a: Tensor, b: Tensor, both: Tensor, temperature: Tensor) -> Tensor:
    """Which b belongs to a row's a among all rows with both, and the reverse: sum of both cross-entropies (B,).

    a, b (B, d) of length 1; both (B,). A row without a pair adds 0 and is nobody's negative; with fewer than two pairs
    there is nothing to tell apart and every row adds 0.
    """
    rows = both.nonzero()[:, 0]
    scores = a[rows] @ b[rows].T / temperature
    each = -(scores.log_softmax(1).diagonal() + scores.log_softmax(0).diagonal())
    return torch.zeros_like(a[:, 0]).index_add(0, rows, each)


@FUSIONS.register(
    "contrastive", source="Cross-modal alignment for time-to-event, contrastive", dp=False, native_missing=True
)
def build(spec: FusionSpec) -> ContrastiveFusion:
    """The fusion of the study's modalities.

    Raises:
        ConsiliumError: there is no pair to align (exit code 10).
    """
    if len(spec.modalities) < 2:
        problem, mend = "one modality has no other to be aligned with", "Add a modality, or choose another fusion."
        raise refused("fusion", value="contrastive", problem=problem, mend=mend)
    return ContrastiveFusion(spec)
