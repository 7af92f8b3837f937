"""DrFuse: shared and distinct representations, weighed label by label (Yao et al. 2024).

Written after the text of the method, since its released code does not run. Each modality's pooled vector goes two ways,
to a distinct vector and, by a projector common to all, to a shared one. The shared vectors of the present modalities
are pooled as Bernoulli logits; each output of each task attends to the pooled one and the present distinct ones, two
keys at least, and is read off its own vector. Losses, weights 1, besides the tasks': the tasks' on the shared vector
alone and on each distinct vector alone, the divergence between shared vectors, the overlap of shared and distinct
(`disentangled`), and the ranking of attention (`fl_shared.models.ranking`; binary and multilabel tasks).

The paper has two modalities, of which the EHR is always there and is its own shared vector where the image is absent.
Pooling over those present says the same of any number and needs no such anchor: one modality alone is its own. Its
branches are whole transformer layers and ResNets; here an encoder has one trunk and the branches are linear maps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fl_shared.models.fusion.disentangled import logit_pool, overlap, shared_divergence
from fl_shared.models.fusion.own_heads import OwnHeads
from fl_shared.models.interface import AuxLogits, EncoderOutput, Fusion, FusionOutput, FusionSpec, Ranked
from fl_shared.models.registry import FUSIONS
from fl_shared.models.tokens import masked_mean


class OutputAttention(nn.Module):
    """x (B, K, d) -> one vector an output (B, C, d) and its weights (B, C, K): a key an output, one query.

    The query is the mean of those of the valid representations (B, K).
    """

    def __init__(self, *, width: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, outputs * width, bias=False)  # softmax ignores what all keys share
        self.value = nn.Linear(width, width)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Invalid representations have no weight."""
        query = masked_mean(self.query(x), valid[..., None], 1)
        keys = self.key(x).unflatten(2, (self.outputs, -1))
        scores = torch.einsum("bd,bkcd->bck", query, keys) / math.sqrt(x.shape[2])
        weights = scores.masked_fill(~valid[:, None], -torch.inf).softmax(2)
        return weights @ self.value(x), weights


class DrFuseFusion(Fusion):
    """Pooled vectors, as wide as their encoders -> task -> (B, C, d)."""

    needs = frozenset({"pooled"})
    native_missing = True

    def __init__(self, spec: FusionSpec) -> None:
        super().__init__()
        width, names = spec.model.width, spec.modalities
        self.modalities, self.tasks = names, dict(spec.tasks)
        self.out_features = width
        self.shared = nn.ModuleDict({m: nn.Linear(spec.widths[m], width) for m in names})
        self.distinct = nn.ModuleDict({m: nn.Linear(spec.widths[m], width) for m in names})
        self.projector = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, width)
        )
        self.attention = OutputAttention(width=width, outputs=sum(spec.tasks.values()))
        self.shared_heads = OwnHeads(width, spec)
        self.distinct_heads = nn.ModuleDict({m: OwnHeads(width, spec) for m in names})

    def forward(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> FusionOutput:
        """``fused`` is the mean of the outputs' vectors, which no head reads."""
        there = torch.stack([present[m] for m in self.modalities], dim=1)
        shared = self.projector(torch.stack([self.shared[m](outputs[m].pooled) for m in self.modalities], dim=1))
        distinct = torch.stack([self.distinct[m](outputs[m].pooled) for m in self.modalities], dim=1)
        pooled = logit_pool(shared, there)
        valid = torch.cat([torch.ones_like(there[:, :1]), there], dim=1)
        vectors, weights = self.attention(torch.cat([pooled[:, None], distinct], dim=1), valid)
        alone: list[dict[str, Tensor]] = [self.shared_heads(pooled)]
        alone += [self.distinct_heads[m](x) for m, x in zip(self.modalities, distinct.unbind(1), strict=True)]
        sizes, tasks = list(self.tasks.values()), list(self.tasks)
        told = {task: torch.stack([logits[task] for logits in alone], dim=2) for task in tasks}
        return FusionOutput(
            fused=vectors.mean(1),
            per_class=dict(zip(tasks, vectors.split(sizes, dim=1), strict=True)),
            auxiliary={"tasks": _each(told, valid)},
            losses={"tasks": shared_divergence(shared, there) + overlap(shared, distinct, there)},
            ranked=tuple(
                Ranked(task=task, attention=own, logits=told[task], valid=valid)
                for task, own in zip(tasks, weights.split(sizes, dim=1), strict=True)
            ),
        )

    def shares(self, outputs: Mapping[str, EncoderOutput], present: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Attention to each modality's distinct vector, mean over the outputs of all tasks; that to the shared one is
        split alike among the present modalities, which it is pooled from.
        """
        weights = torch.cat([ranked.attention for ranked in self(outputs, present).ranked], dim=1).mean(1)
        there = torch.stack([present[m] for m in self.modalities], dim=1)
        parts = weights[:, 1:] + weights[:, :1] * there / there.sum(1, keepdim=True)
        return dict(zip(self.modalities, parts.unbind(1), strict=True))


def _each(told: Mapping[str, Tensor], valid: Tensor) -> tuple[AuxLogits, ...]:
    """Predictions (B, C, K) of each representation alone, on the rows that have it."""
    return tuple(
        AuxLogits(task=task, logits=z, rows=rows)
        for task, logits in told.items()
        for z, rows in zip(logits.unbind(2), valid.unbind(1), strict=True)
    )


@FUSIONS.register("drfuse", source="Yao et al. 2024 (DrFuse)", native_missing=True, projects=False)
def build(spec: FusionSpec) -> DrFuseFusion:
    """The fusion of the study's modalities."""
    return DrFuseFusion(spec)
