"""Exact counts: what is told gives no cell of 1 to 9 patients, by itself or by subtraction."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client.privacy.small_cells import merged_cells, tells_small, withheld_classes

CELLS = st.lists(st.integers(0, 30), min_size=2, max_size=12)


@settings(max_examples=300)
@given(CELLS, st.integers(0, 40))
def test_a_merged_histogram_tells_groups_of_ten_and_all_patients(cells: list[int], missing: int) -> None:
    told, left = merged_cells(np.array(cells), missing)
    assert not tells_small(np.append(told, left))
    if told.any():
        assert told.sum() + left == sum(cells) + missing  # or another count would tell the difference
        # up to every told cell, what is told is off by less than ten patients
        assert (np.abs(np.cumsum(told) - np.cumsum(cells)) < 10 + (missing if missing < 10 else 0)).all()
    else:
        assert sum(cells) < 10 and (left == 0 or sum(cells) == 0)


def test_a_merged_histogram_by_hand() -> None:
    told, missing = merged_cells(np.array([3, 4, 5, 0, 20, 9, 0, 6, 2]), 0)
    assert (told.tolist(), missing) == ([0, 0, 12, 0, 20, 0, 0, 17, 0], 0)
    told, missing = merged_cells(np.array([12, 30, 4]), 7)
    assert (told.tolist(), missing) == ([12, 41, 0], 0)  # the median's cell takes those without a value
    assert merged_cells(np.array([12, 30, 4]), 10)[1] == 10
    assert merged_cells(np.array([0, 0]), 50)[1] == 50  # nobody has a value
    assert merged_cells(np.array([5, 0]), 50)[1] == 0  # or the five would be told by subtraction


@settings(max_examples=300)
@given(st.lists(st.integers(0, 30), min_size=2, max_size=5), st.integers(0, 40))
def test_withheld_classes_hide_ten_patients_or_nobody(cells: list[int], rest: int) -> None:
    told, left = withheld_classes(np.array(cells), rest)
    every, shown = np.append(cells, rest), np.append(told, left)
    assert not tells_small(shown)
    assert all(s in (0, e) for s, e in zip(shown, every, strict=True))
    hidden = (shown == 0) & (every > 0)
    # who knows the number of all patients learns how many are hidden together: none, or ten and more, or everything
    together = int(every[hidden].sum())
    assert together == 0 or together >= 10 or not shown.any()
    if 0 in cells and together == 0:
        assert not shown.any()  # that a class is empty would be true of everybody


@pytest.mark.parametrize(
    ("cells", "rest", "told"),
    [
        ([150, 12], 0, ([150, 12], 0)),
        ([150, 5], 0, ([0, 0], 0)),
        ([150, 12], 3, ([150, 0], 0)),
        ([150, 12], 30, ([150, 12], 30)),
        ([150, 0], 40, ([150, 0], 0)),
        ([100, 30, 4], 0, ([100, 0, 0], 0)),
        ([100, 4, 7, 30], 0, ([100, 0, 0, 30], 0)),
    ],
)
def test_withheld_classes_by_hand(cells: list[int], rest: int, told: tuple[list[int], int]) -> None:
    found, left = withheld_classes(np.array(cells), rest)
    assert (found.tolist(), left) == told


def test_no_sum_or_difference_of_two_histograms_of_the_same_patients_tells_a_small_cell() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        n = int(rng.integers(20, 120))
        tables = [np.bincount(rng.integers(0, rng.integers(2, 9), n), minlength=9) for _ in range(3)]
        told = [np.append(*merged_cells(table[:-1], int(table[-1]))) for table in tables]
        sums = {int(cells.sum()) for cells in told if cells.any()}
        assert len(sums) <= 1  # all tell the same number of patients: a difference of two is 0
        for cells in told:
            groups = cells[cells > 0].tolist()
            subsets = [sum(some) for size in (1, 2) for some in combinations(groups, size)]
            assert all(n - part >= 10 or n == part for part in subsets)
