"""Masked multi-head attention without parameters, and the layer by which one modality asks another.

Scaled dot-product attention (Vaswani et al. 2017, section 3.2), to be used with one nn.Linear a role, so that
per-patient gradients are exact. Shapes: queries (B, T, d), keys and values (B, S, d), mask (B, S).
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from fl_shared.models.tokens import token_mean


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, heads: int) -> Tensor:
    """(B, T, d): for each query the valid values, by its likeness to their keys; at least one key is valid."""
    q, k, v = (_split(x, heads) for x in (query, key, value))
    found: Tensor = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
    return found.transpose(1, 2).flatten(2)


def attention(query: Tensor, key: Tensor, mask: Tensor, *, heads: int) -> Tensor:
    """What `attend` weighs the values with, mean over the heads: (B, T, S), each query's weights add up to 1."""
    q, k = (_split(x, heads) for x in (query, key))
    likeness = (q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])).masked_fill(~mask[:, None, None, :], -math.inf)
    return likeness.softmax(-1).mean(1)


class PairAttention(nn.Module):
    """Tokens of one modality ask those of another: mean over the valid queries of what they find, (B, d).

    Maps without bias and none behind, which gives the sizes told of cross-modal alignment for time-to-event. Ours: a
    key and a value of zeros stand beside the other's tokens. With one token (an embedding, a learned vector) the
    softmax over it would be 1 and the query without effect; so the query decides how much of it is taken.
    """

    def __init__(self, *, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)

    def forward(self, asks: Tensor, asks_mask: Tensor, answers: Tensor, answers_mask: Tensor) -> Tensor:
        """asks (B, T, d), answers (B, S, d), masks (B, T) and (B, S)."""
        key, value = (F.pad(x, (0, 0, 1, 0)) for x in (self.key(answers), self.value(answers)))
        mask = F.pad(answers_mask, (1, 0), value=True)
        return token_mean(attend(self.query(asks), key, value, mask, heads=self.heads), asks_mask)


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, T, d) -> (B, heads, T, d / heads)."""
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)
