"""Errors of numbers against scikit-learn, Dice against a loop over voxels."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, mean_absolute_error, median_absolute_error, r2_score

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


@pytest.mark.parametrize("cuts", [(40.0, 50.0, 55.0, 60.0, 70.0), (50.0,)])
def test_kappa_equals_sklearn_on_repeated_samples(cuts):
    rng = np.random.default_rng(0)
    patients, truth = rng.integers(0, 40, 61), np.round(rng.normal(55, 12, 61) / 5) * 5  # some lie on a cut
    predicted = truth + rng.normal(0, 8, 61)
    weights = np.stack([np.bincount(rng.integers(0, 40, 40), minlength=40) for _ in range(30)])
    found = Numbers.of(predicted, truth, patients, cohort=40, cuts=cuts).metrics(weights)["kappa"]
    sides = [np.digitize(each, cuts) for each in (truth, predicted)]
    for b, weight in enumerate(weights):
        rows = np.repeat(np.arange(61), weight[patients])
        expected = cohen_kappa_score(*(side[rows] for side in sides), weights="linear")
        assert found[b] == pytest.approx(expected, abs=1e-12)


def test_kappa_of_one_class_of_chance_and_of_the_worst():
    def kappa(predicted, truth):
        return Numbers.of(np.array(predicted), np.array(truth), np.arange(4), cohort=4, cuts=(0.0,)).metrics(
            np.ones((1, 4), dtype=np.int64)
        )["kappa"][0]

    assert np.isnan(kappa([1.0, 2, 3, 4], [5.0, 6, 7, 8]))  # all are of one class
    assert kappa([1.0, 1, 1, 1], [1.0, -1, 1, -1]) == 0
    assert kappa([1.0, -1, 1, -1], [1.0, -1, 1, -1]) == 1
    assert kappa([1.0, -1, 1, -1], [-1.0, 1, -1, 1]) == -1


def test_a_target_that_does_not_vary_has_no_r2():
    found = Numbers.of(np.array([1.0, 2, 3]), np.array([7.1, 7.1, 7.1]), np.arange(3), cohort=3).metrics(ONCE)
    assert np.isnan(found["r2"]).all()
    assert found["mae"] == pytest.approx([5.1])
    varied = Numbers.of(np.array([1.0, 2, 3]), np.array([0.1, 0.1, 9.7]), np.arange(3), cohort=3)
    assert np.isnan(varied.metrics(np.array([[2, 1, 0]]))["r2"]).all()  # nor does a resample of equal ones
    assert np.isnan(varied.metrics(np.array([[0, 0, 0]]))["medae"]).all()


def test_dice_pools_a_patients_frames_and_then_averages_patients():
    # patient 0: two frames, 2*(8+0)/(10+10+0+2); patient 1: nothing drawn, something predicted; patient 2: nothing
    predicted, drawn = np.array([[10.0, 8, 5, 2], [2, 0, 7, 1], [3, 0, 90, 1], [0] * 4]), np.array([10.0, 0, 0, 0])
    found = Masks.of(predicted, drawn, np.array([0, 0, 1, 2]), cohort=3)
    assert found.metrics(ONCE)["dice"] == pytest.approx([(16 / 22 + 0) / 2])
    assert found.metrics(np.array([[2, 1, 5]]))["dice"] == pytest.approx([2 * 16 / 22 / 3])
    assert np.isnan(found.metrics(np.array([[0, 0, 3]]))["dice"]).all()
    assert found.metrics(ONCE)["hd95"] == pytest.approx([(12 / 3 + 90) / 2])
    assert found.metrics(np.array([[2, 1, 5]]))["hd95"] == pytest.approx([(2 * 4 + 90) / 3])
    assert np.isnan(found.metrics(np.array([[0, 0, 3]]))["hd95"]).all()
