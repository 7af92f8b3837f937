"""Errors of numbers against scikit-learn, Dice against a loop over voxels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, median_absolute_error, r2_score

from fl_shared.metrics.outcomes import Masks, Numbers

ONCE = np.ones((1, 3), dtype=np.int64)


def test_numbers_equal_sklearn_on_repeated_samples():
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 40, 61)
    truth = rng.normal(55, 12, 61)
    predicted = truth + rng.normal(0, 5, 61)
    weights = np.stack([np.bincount(rng.integers(0, 40, 40), minlength=40) for _ in range(30)])
    found = Numbers.of(predicted, truth, patients, cohort=40).metrics(weights)
    oracles = {"mae": mean_absolute_error, "medae": median_absolute_error, "r2": r2_score}
    parities = set()
    for b, weight in enumerate(weights):
        rows = np.repeat(np.arange(61), weight[patients])
        parities.add(len(rows) % 2)
        for name, oracle in oracles.items():
            assert found[name][b] == pytest.approx(oracle(truth[rows], predicted[rows]), rel=1e-9)
    assert parities == {0, 1}  # the median of an even and of an odd number


def test_a_target_that_does_not_vary_has_no_r2():
    found = Numbers.of(np.array([1.0, 2, 3]), np.array([7.1, 7.1, 7.1]), np.arange(3), cohort=3).metrics(ONCE)
    assert np.isnan(found["r2"]).all()
    assert found["mae"] == pytest.approx([5.1])
    varied = Numbers.of(np.array([1.0, 2, 3]), np.array([0.1, 0.1, 9.7]), np.arange(3), cohort=3)
    assert np.isnan(varied.metrics(np.array([[2, 1, 0]]))["r2"]).all()  # nor does a resample of equal ones
    assert np.isnan(varied.metrics(np.array([[0, 0, 0]]))["medae"]).all()


def test_dice_pools_a_patients_frames_and_then_averages_patients():
    # patient 0: two frames, 2*(8+0)/(10+10+0+2); patient 1: nothing drawn, something predicted; patient 2: nothing
    predicted, right, drawn = np.array([10.0, 2, 3, 0]), np.array([8.0, 0, 0, 0]), np.array([10.0, 0, 0, 0])
    found = Masks.of(predicted, right, drawn, np.array([0, 0, 1, 2]), cohort=3)
    assert found.metrics(ONCE)["dice"] == pytest.approx([(16 / 22 + 0) / 2])
    assert found.metrics(np.array([[2, 1, 5]]))["dice"] == pytest.approx([2 * 16 / 22 / 3])
    assert np.isnan(found.metrics(np.array([[0, 0, 3]]))["dice"]).all()
