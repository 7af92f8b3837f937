"""What DrFuse says of shared and distinct vectors (Yao et al. 2024), row by row, of any number of modalities.

A shared vector's components are the logits of independent Bernoulli variables. Shapes: x (B, M, d), there (B, M).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def logit_pool(x: Tensor, there: Tensor) -> Tensor:
    """Logit of the mean of the present vectors' sigmoids (B, d); at least one is present."""
    absent = ~there[..., None]
    yes, no = (F.logsigmoid(sign * x).masked_fill(absent, -torch.inf).logsumexp(1) for sign in (1, -1))
    return yes - no


def shared_divergence(x: Tensor, there: Tensor) -> Tensor:
    """Jensen-Shannon divergence in nats of the present vectors' Bernoulli variables, summed over d (B,).

    Mean over the present modalities of KL(own || mean); 0 where there are fewer than two.
    """
    mean = logit_pool(x, there)[:, None]
    yes = x.sigmoid() * (F.logsigmoid(x) - F.logsigmoid(mean))
    no = (-x).sigmoid() * (F.logsigmoid(-x) - F.logsigmoid(-mean))
    each = torch.where(there, (yes + no).sum(2), 0.0).sum(1) / there.sum(1)
    return torch.where(there.sum(1) > 1, each, 0.0)


def overlap(shared: Tensor, distinct: Tensor, there: Tensor) -> Tensor:
    """Sum over the present modalities of |cosine| between their shared and distinct vectors (B,)."""
    one, other = (torch.where(there[..., None], x, 1.0) for x in (shared, distinct))  # no cosine has a gradient at 0
    return torch.where(there, F.cosine_similarity(one, other, dim=2).abs(), 0.0).sum(1)
