"""Cross-attention between the best levels of every pair of modalities (LeMoF, module 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from fl_shared.models.attention import attend
from fl_shared.models.fusion.level_predictor import LevelOutput
from fl_shared.models.tokens import learned_tokens, token_mean


class PairwiseAttention(nn.Module):
    """Cross-attention between every pair of modalities, both ways -> (B, out_features), and logits.

    A modality has one query, key and value map, which for two modalities is a map a direction, as in the paper. Beside
    the tokens stands a learned key: a level may have a single token, whose softmax would be 1 whatever is asked.
    A pair of which one is absent gives zeros and a flag.
    """

    def __init__(
        self, *, modalities: Sequence[str], width: int, heads: int, dropout: float, tasks: Mapping[str, int]
    ) -> None:
        super().__init__()
        self.heads = heads
        self.pairs = tuple(combinations(modalities, 2))
        self.out_features = len(self.pairs) * (2 * width + 1)
        self.rest = nn.Embedding(len(modalities), width)
        self.query = nn.ModuleDict({m: nn.Linear(width, width) for m in modalities})
        # softmax ignores a key's bias: no gradient could reach it
        self.key = nn.ModuleDict({m: nn.Linear(width, width, bias=False) for m in modalities})
        self.value = nn.ModuleDict({m: nn.Linear(width, width) for m in modalities})
        self.dropout = nn.Dropout(dropout)
        self.out = nn.ModuleDict({task: nn.Linear(self.out_features, n) for task, n in tasks.items()})

    def forward(
        self, chosen: Mapping[str, LevelOutput], present: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What each pair found and whether it is incomplete, and omega2 of each task."""
        rests = torch.split(learned_tokens(self.rest, next(iter(present.values()))), 1, dim=1)
        asked = {m: torch.cat([rest, chosen[m].tokens], dim=1) for m, rest in zip(chosen, rests, strict=True)}
        q = {m: self.query[m](best.tokens) for m, best in chosen.items()}
        k = {m: self.key[m](x) for m, x in asked.items()}
        v = {m: self.value[m](x) for m, x in asked.items()}
        found = []
        for one, other in self.pairs:
            both = (present[one] & present[other])[:, None]
            for asks, told in ((one, other), (other, one)):
                mask = torch.cat([torch.ones_like(both), chosen[told].mask], dim=1)
                mean = token_mean(attend(q[asks], k[told], v[told], mask, heads=self.heads), chosen[asks].mask)
                found.append(torch.where(both, self.dropout(mean), 0.0))
            found.append((~both).to(mean.dtype))
        fused = torch.cat(found, dim=1)
        return fused, {task: out(fused) for task, out in self.out.items()}
