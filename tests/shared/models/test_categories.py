"""Categories of a table's fields: nearest words, fixed parts of numbers, and what is missing."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from fl_shared import concepts
from fl_shared.models.encoders.categories import Categories, cuts_between_words
from fl_shared.models.encoders.sparse_series import CUTS

FIELDS = ("age", "smoking", "nyha", "sex")


@pytest.mark.parametrize("field", [name for name in concepts.names() if concepts.concept(name).codes])
def test_every_word_of_the_concept_file_is_a_category_of_its_own(field: str) -> None:
    by = concepts.concept(field)
    codes = sorted(set(by.codes.values()))
    categories = Categories([cuts_between_words(field)])
    values = torch.from_numpy(concepts.scale(np.array(codes), by))[:, None]
    assert categories(values, torch.ones_like(values, dtype=torch.bool))[:, 0].tolist() == list(range(len(codes)))
    assert categories.total == len(codes) + 1


def test_a_value_is_the_nearest_word_and_what_is_missing_comes_last() -> None:
    categories = Categories([cuts_between_words(field) for field in FIELDS])
    sizes = [1, 3, 4, 2]
    values = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)) * 4 - 2
    observed = torch.rand(200, 4, generator=torch.Generator().manual_seed(1)) < 0.7
    found = categories(torch.where(observed, values, float("nan")), observed)
    first = 0
    for f, (field, size) in enumerate(zip(FIELDS, sizes, strict=True)):
        by = concepts.concept(field)
        words = concepts.scale(np.array(sorted(set(by.codes.values()))), by) if by.codes else np.zeros(1)
        nearest = np.abs(values[:, f, None].numpy() - words).argmin(1)
        expected = np.where(observed[:, f].numpy(), first + nearest, first + size)
        assert found[:, f].tolist() == expected.tolist()
        first += size + 1
    assert categories.total == first


def test_numbers_and_unknown_concepts_have_no_words() -> None:
    assert cuts_between_words("age") == cuts_between_words("gcs") == cuts_between_words("f0") == ()


def test_parts_of_a_number_are_those_between_the_cuts() -> None:
    categories = Categories([(), CUTS])
    edges = [-9.0, *CUTS, 9.0]
    values = torch.tensor([[0.0, (low + high) / 2] for low, high in pairwise(edges)])
    found = categories(values, torch.ones(11, 2, dtype=torch.bool))
    assert found[:, 1].tolist() == list(range(2, 13))
    assert found[:, 0].tolist() == [0] * 11
    assert "cuts" not in categories.state_dict()
