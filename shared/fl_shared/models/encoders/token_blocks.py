"""Transformer blocks over the tokens of a table's fields: pre-norm attention and a gated feed-forward net.

Vaswani et al. 2017, section 3.2; gates: Shazeer 2020 (GLU Variants Improve Transformer).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, kw_only=True)
class BlockSizes:
    """width: of tokens; heads of ``head`` each; hidden: gated units; dropouts of attention weights and hidden units."""

    width: int
    heads: int
    head: int
    hidden: int
    attention_dropout: float
    dropout: float


class TokenAttention(nn.Module):
    """x (B, T, d) -> (B, T, d); every token attends to all."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        inner = sizes.heads * sizes.head
        self.heads = sizes.heads
        self.query = nn.Linear(sizes.width, inner)
        self.key = nn.Linear(sizes.width, inner, bias=False)  # softmax ignores a key's bias: no gradient would reach it
        self.value = nn.Linear(sizes.width, inner)
        self.out = nn.Linear(inner, sizes.width)
        self.dropout = nn.Dropout(sizes.attention_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Dropout acts on the attention weights."""
        q, k, v = (
            layer(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value)
        )
        found = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout.p if self.training else 0.0)
        out: Tensor = self.out(found.transpose(1, 2).flatten(2))
        return out


class TokenBlock(nn.Module):
    """x (B, T, d) -> (B, T, d).

    Args:
        sizes: see there.
        gate: of the second half of the hidden units: ReLU (ReGLU) or GELU (GEGLU).
        first: no norm before its attention.
    """

    def __init__(self, sizes: BlockSizes, *, gate: Callable[[Tensor], Tensor], first: bool = False) -> None:
        super().__init__()
        self.gate = gate
        self.norm1 = nn.Identity() if first else nn.LayerNorm(sizes.width)
        self.attention = TokenAttention(sizes)
        self.norm2 = nn.LayerNorm(sizes.width)
        self.inner = nn.Linear(sizes.width, 2 * sizes.hidden)
        self.dropout = nn.Dropout(sizes.dropout)
        self.outer = nn.Linear(sizes.hidden, sizes.width)

    def forward(self, x: Tensor) -> Tensor:
        """One block."""
        x = x + self.attention(self.norm1(x))
        plain, gate = self.inner(self.norm2(x)).chunk(2, dim=2)
        found: Tensor = x + self.outer(self.dropout(plain * self.gate(gate)))
        return found
