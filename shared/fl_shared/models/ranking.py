"""Attention ranked by error (DrFuse, Yao et al. 2024): who predicts a label better is to have more of its attention.

Of two representations the one with the smaller cross-entropy of a label should not have the smaller weight; what it
lacks is the loss. The errors are constants here: the predictions are not made worse to please the attention. No margin
is added, as in the published training; there the mean is over the violations of a batch, here over a row's own pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fl_shared.models.interface import Ranked


def attention_ranking(ranked: Ranked, target: Tensor, mask: Tensor) -> Tensor:
    """Mean over a row's pairs of representations and known labels (B,); 0 where it has no such pair or label.

    Args:
        ranked: of a binary or multilabel task.
        target: (B, C), 0 or 1; what it holds where it is unknown does not matter.
        mask: (B, C).
    """
    wanted = torch.where(mask, target.to(ranked.logits.dtype), 0.0)[..., None].expand_as(ranked.logits)
    error = F.binary_cross_entropy_with_logits(ranked.logits.detach(), wanted, reduction="none")
    better = error[..., :, None] < error[..., None, :]
    lacks = (ranked.attention[..., None, :] - ranked.attention[..., :, None]).clamp(min=0)
    pairs = (ranked.valid[:, :, None] & ranked.valid[:, None, :])[:, None] & mask[..., None, None]
    total = torch.where(pairs & better, lacks, 0.0).sum((1, 2, 3))
    own = ranked.valid.sum(1)
    return total / (own * (own - 1) / 2 * mask.sum(1)).clamp(min=1).to(total.dtype)
