"""Tokens: means over what is valid, masks, and learned ones."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def masked_mean(x: Tensor, mask: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Mean of x over ``dims``, as far as a mask of as many dimensions is True; 0 where it nowhere is.

    What x holds elsewhere does not matter, be it NaN. The mask may be broadcast, but not along ``dims``.
    """
    return torch.where(mask, x, 0.0).sum(dims) / mask.to(x.dtype).sum(dims).clamp(min=1)


def token_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean (B, d) of the valid tokens (B, T, d), mask (B, T); 0 where a row has none."""
    return masked_mean(tokens, mask[..., None], 1)


def all_valid(tokens: Tensor) -> Tensor:
    """The mask (B, T) of tokens (B, T, d) that are all valid."""
    return torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def learned_tokens(table: nn.Embedding, rows: Tensor) -> Tensor:
    """All n vectors of a table for each of B rows, (B, n, d); per-patient gradients need the ids row by row."""
    ids = torch.arange(table.num_embeddings, device=rows.device).expand(len(rows), -1).contiguous()
    found: Tensor = table(ids)
    return found
