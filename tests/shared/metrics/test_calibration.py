"""Brier score and calibration bins."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from fl_shared.metrics.calibration import brier
from fl_shared.metrics.risk_groups import RiskGroups


def calibration_bins(scores, targets, patients, *, few=10):
    return RiskGroups.of(scores, targets, patients, few=few).calibration()


def sample(n, seed=0):
    rng = np.random.default_rng(seed)
    scores = rng.random(n)
    return scores, (rng.random(n) < scores).astype(float)


def test_equals_sklearn_when_every_bin_is_large():
    scores, targets = sample(1000)
    observed, predicted = calibration_curve(targets, scores, n_bins=10, strategy="quantile")
    got = calibration_bins(scores, targets, np.arange(1000))
    np.testing.assert_allclose(got, (predicted, observed), atol=0.02)  # a sample on an edge may change sides
    assert brier(scores, targets) == pytest.approx(brier_score_loss(targets, scores), abs=1e-12)


@pytest.mark.parametrize(("n", "most"), [(9, 0), (10, 1), (55, 5), (99, 9), (100, 10)])
def test_small_bins_are_merged(n, most):
    scores, targets = sample(n)
    x, y = calibration_bins(scores, targets, np.arange(n))
    assert len(x) == len(y) <= most
    assert (np.diff(x) > 0).all()


def test_a_bin_counts_patients_not_samples():
    scores, targets = sample(200)
    x, _ = calibration_bins(scores, targets, np.arange(200) // 20)  # 10 patients of 20 samples, scores spread
    assert len(x) < 10
    assert len(calibration_bins(scores, targets, np.arange(200) % 9)[0]) == 0  # 9 patients: nothing


def test_no_sample_is_lost():
    scores, targets = np.repeat([0.1, 0.2, 0.9], [12, 3, 30]), np.repeat([0.0, 1.0], [20, 25])
    x, y = calibration_bins(scores, targets, np.arange(45))
    np.testing.assert_allclose(x, [0.1, (3 * 0.2 + 30 * 0.9) / 33])  # the bin of three joins the next
    np.testing.assert_allclose(y, [0.0, 25 / 33])
