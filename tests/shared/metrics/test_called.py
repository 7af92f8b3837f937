"""Accuracy and F1 against scikit-learn's, in every resample of patients."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from fl_shared.metrics.bootstrap import patient_weights
from fl_shared.metrics.called import Called


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_every_resample_equals_scikit_learn(share: float) -> None:
    g = np.random.default_rng(7)
    patients = g.integers(0, 40, 150)
    y = (g.random(150) < share).astype(float)
    p = np.where(g.random(150) < 0.1, 0.5, g.random(150))  # one half is not called
    weights = np.concatenate(list(patient_weights(40, resamples=50, seed=1, rows=50)))
    found = Called.of(p, y, patients, cohort=40).metrics(weights)
    call = p > 0.5
    for b, w in enumerate(weights[:, patients]):
        assert found["accuracy"][b] == pytest.approx(accuracy_score(y, call, sample_weight=w), abs=1e-12)
        expected = f1_score(y, call, sample_weight=w, zero_division=np.nan)
        assert found["f1"][b] == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_nobody_has_the_outcome_and_nobody_is_called() -> None:
    found = Called.of(np.full(5, 0.2), np.zeros(5), np.arange(5), cohort=5).metrics(np.array([[1] * 5, [0] * 5]))
    np.testing.assert_equal(found["accuracy"], [1.0, np.nan])
    assert np.isnan(found["f1"]).all()
