"""Cross-attention between the best levels of every pair of modalities (LeMoF, module 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fl_shared.models.fusion.level_predictor import LevelOutput, masked_mean


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
        first = next(iter(present.values()))
        ids = torch.arange(len(chosen), device=first.device).expand(len(first), -1).contiguous()
        rests = dict(zip(chosen, self.rest(ids).split(1, dim=1), strict=True))
        asked = {m: torch.cat([rests[m], best.tokens], dim=1) for m, best in chosen.items()}
        q = {m: self._split(self.query[m](best.tokens)) for m, best in chosen.items()}
        k = {m: self._split(self.key[m](x)) for m, x in asked.items()}
        v = {m: self._split(self.value[m](x)) for m, x in asked.items()}
        found = []
        for one, other in self.pairs:
            both = (present[one] & present[other])[:, None]
            for asks, told in ((one, other), (other, one)):
                mask = torch.cat([torch.ones_like(both), chosen[told].mask], dim=1)
                h = scaled_dot_product_attention(q[asks], k[told], v[told], attn_mask=mask[:, None, None, :])
                mean = masked_mean(h.transpose(1, 2).flatten(2), chosen[asks].mask)
                found.append(torch.where(both, self.dropout(mean), 0.0))
            found.append((~both).to(mean.dtype))
        fused = torch.cat(found, dim=1)
        return fused, {task: out(fused) for task, out in self.out.items()}

    def _split(self, x: Tensor) -> Tensor:
        """(B, T, d) -> (B, heads, T, d / heads)."""
        return x.view(*x.shape[:2], self.heads, -1).transpose(1, 2)
