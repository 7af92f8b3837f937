"""Fields of a table as categories: the words of the concept file, or fixed parts of a number's range.

Both stand in the study's plan, so that nothing is fitted and every site has the same categories.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from fl_shared import concepts


def cuts_between_words(field: str) -> tuple[float, ...]:
    """Scaled values half-way between the neighbouring words of a field; none for a number, or an unknown concept.

    Values reach a model as numbers: a word is its code, scaled by the concept's range.
    """
    if field not in concepts.names():
        return ()
    by = concepts.concept(field)
    codes = concepts.scale(np.array(sorted(set(by.codes.values()))), by).tolist()
    return tuple((low + high) / 2 for low, high in pairwise(codes))


class Categories(nn.Module):
    """``values`` and ``observed`` (B, F) -> ids (B, F) int64 in one table of all fields' categories.

    A field has a category a part between its cuts, and a last one that says it is missing.

    Args:
        cuts: of each field, in order; none makes one part.

    Attributes:
        total: categories of all fields together.
    """

    cuts: Tensor
    first: Tensor
    missing: Tensor

    def __init__(self, cuts: Sequence[Sequence[float]]) -> None:
        super().__init__()
        longest = max(map(len, cuts))
        padded = [[*each, *[float("inf")] * (longest - len(each))] for each in cuts]
        sizes = [len(each) + 2 for each in cuts]
        ends = np.cumsum(sizes).tolist()
        self.total: int = ends[-1]
        self.register_buffer("cuts", torch.tensor(padded), persistent=False)
        self.register_buffer("first", torch.tensor([0, *ends[:-1]]), persistent=False)
        self.register_buffer("missing", torch.tensor(ends) - 1, persistent=False)

    def forward(self, values: Tensor, observed: Tensor) -> Tensor:
        """What stands in an unobserved place is not read."""
        part = (values[:, :, None] >= self.cuts).sum(2)
        return torch.where(observed, self.first + part, self.missing)


class FieldScale(nn.Module):
    """values (B, N) -> (B, N, d): each number times a vector of its field; a leaf, as per-patient gradients need it."""

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(fields, width).uniform_(-1, 1) / width**0.5)

    def forward(self, values: Tensor) -> Tensor:
        """Numbers of observed places, 0 elsewhere."""
        return values[:, :, None] * self.weight
