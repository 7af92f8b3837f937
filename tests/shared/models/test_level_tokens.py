"""Levels as tokens (LeMoF): maps of any shape and length become at most 16 means over their valid places."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from fl_shared.models.fusion.level_predictor import TOKENS, pool
from fl_shared.models.interface import Level


@pytest.mark.parametrize("length", [1, 7, 16, 50])
def test_a_sequence_is_pooled_over_equal_shares_of_its_valid_part(length: int) -> None:
    g = torch.Generator().manual_seed(length)
    x = torch.randn(6, 3, length, generator=g, dtype=torch.float64)
    mask = torch.rand(6, length, generator=g) < 0.7
    mask[0], mask[1] = True, False
    there = torch.tensor([True, True, True, True, True, False])
    tokens, valid = pool(Level(map=x.masked_fill(~mask[:, None], torch.nan), mask=mask), there)
    for row in range(6):
        positions = [s for s in range(length) if mask[row, s] and there[row]]
        parts: dict[int, list[int]] = {}
        for rank, s in enumerate(positions):
            parts.setdefault(rank * TOKENS // len(positions), []).append(s)
        assert valid[row].nonzero()[:, 0].tolist() == sorted(parts)
        sizes = [len(s) for s in parts.values()]
        assert not sizes or max(sizes) - min(sizes) <= 1
        for part, members in parts.items():
            torch.testing.assert_close(tokens[row, part], x[row][:, members].mean(1))


def test_a_row_does_not_depend_on_how_far_the_batch_is_padded() -> None:
    x, there = torch.randn(2, 3, 21, dtype=torch.float64), torch.ones(2, dtype=torch.bool)
    mask = torch.arange(21) < torch.tensor([[21], [5]])
    short = Level(map=x, mask=mask)
    long = Level(map=F.pad(x, (0, 30), value=9.0), mask=F.pad(mask, (0, 30)))
    for found, expected in zip(pool(long, there), pool(short, there), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_cine_is_pooled_over_a_fixed_grid_and_its_missing_frames_are_left_out() -> None:
    x, there = torch.randn(2, 3, 8, 6, 4, dtype=torch.float64), torch.ones(2, dtype=torch.bool)
    tokens, valid = pool(Level(map=x), there)
    torch.testing.assert_close(tokens, F.adaptive_avg_pool3d(x, (4, 2, 2)).flatten(2).transpose(1, 2))
    assert valid.all()
    frames = torch.tensor([True] * 3 + [False] * 5)[None, :, None, None].expand(2, 8, 6, 4)
    tokens, valid = pool(Level(map=x, mask=frames), there)
    assert valid.tolist() == [[True] * 8 + [False] * 8] * 2
    torch.testing.assert_close(tokens[:, 4:8], F.adaptive_avg_pool2d(x[:, :, 2], (2, 2)).flatten(2).transpose(1, 2))


def test_a_level_without_positions_is_one_token() -> None:
    x = torch.randn(2, 3)
    tokens, valid = pool(Level(map=x), torch.tensor([True, False]))
    assert valid.sum(1).tolist() == [1, 0]
    torch.testing.assert_close(tokens[0, 0], x[0])
