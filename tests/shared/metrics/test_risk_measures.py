"""Sensitivity, calibration intercept and slope, and the parts of the Brier score, resample by resample."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit
from sklearn.metrics import brier_score_loss, roc_curve

from fl_shared.metrics.bootstrap import bootstrap, patient_weights
from fl_shared.metrics.outcomes import Risks
from fl_shared.metrics.recalibration import NODES, Nodes

RESAMPLES = 25


def sample(n, *, seed=0, slope=0.7, shift=-0.5, digits=None):
    """Risks, outcomes on another line than the risks say, and several samples a patient."""
    rng = np.random.default_rng(seed)
    x = rng.normal(-1, 1.5, n)
    p = expit(x) if digits is None else np.clip(np.round(expit(x), digits), 0.01, 0.99)
    y = (rng.random(n) < expit(shift + slope * x)).astype(float)
    return p, y, rng.integers(0, max(1, 2 * n // 3), n)


def resampled(p, y, patients):
    cohort = int(patients.max()) + 1
    measure = Risks.of(p, y, patients, cohort=cohort)
    (found,) = bootstrap([measure], cohort=cohort, samples=len(p), resamples=RESAMPLES, seed=3)
    weights = np.concatenate(list(patient_weights(cohort, resamples=RESAMPLES, seed=3, rows=RESAMPLES)))
    return found, weights[:, patients]


def intercept_of(p, y, weight):
    x = logit(p)
    return brentq(lambda a: (weight * (y - expit(a + x))).sum(), -40, 40, xtol=1e-14, rtol=1e-14)


def slope_of(p, y, weight):
    """Newton's method on all samples, in plain numpy."""
    x = np.stack([np.ones_like(p), logit(p)])
    beta = np.zeros(2)
    for _ in range(100):
        q = expit(beta @ x)
        step = np.linalg.solve((x * (weight * q * (1 - q))) @ x.T, x @ (weight * (y - q)))
        beta = beta + np.clip(step, -1, 1)
    return beta[1]


def sensitivity_of(p, y, weight):
    false, true, _ = roc_curve(y, p, sample_weight=weight, drop_intermediate=False)
    return true[false <= 0.1 + 1e-12].max()


@pytest.mark.parametrize(
    ("n", "digits"), [(60, None), (700, None), (700, 2)], ids=["samples as they are", "on nodes", "ties"]
)
def test_every_resample_equals_a_fit_on_its_samples(n, digits):
    p, y, patients = sample(n, digits=digits, seed=n)
    found, weights = resampled(p, y, patients)
    oracles = {
        "sensitivity_at_90": sensitivity_of,
        "calibration_in_the_large": intercept_of,
        "calibration_slope": slope_of,
    }
    for metric, oracle in oracles.items():
        expected = [oracle(p, y, weight) for weight in weights]
        np.testing.assert_allclose(found[metric], expected, atol=1e-9, err_msg=metric)


@pytest.mark.parametrize("slope", [0.2, 1.0, 4.0])
def test_nodes_stand_for_many_samples_whatever_the_slope(slope):
    p, y, _ = sample(3000, slope=slope, shift=0.0, seed=8)
    nodes = Nodes.of(logit(p), y)
    assert len(nodes.places) % NODES == 0 and len(nodes.places) < 600
    found, weights = resampled(p, y, np.arange(3000))
    for weight, intercept, line in list(
        zip(weights, found["calibration_in_the_large"], found["calibration_slope"], strict=True)
    )[:4]:
        assert intercept == pytest.approx(intercept_of(p, y, weight), abs=1e-9)
        assert line == pytest.approx(slope_of(p, y, weight), abs=1e-9)


def test_the_intercept_and_slope_are_the_maximum_of_the_likelihood():
    p, y, patients = sample(300, seed=1)
    found = Risks.of(p, y, patients, cohort=patients.max() + 1).metrics(np.ones((1, patients.max() + 1), np.int64))
    x = logit(p)

    def loss(beta):
        eta = beta[0] + beta[1] * x
        return (np.logaddexp(0, eta) - y * eta).sum()

    best = minimize(loss, [0.0, 1.0], method="BFGS", options={"gtol": 1e-9})
    assert found["calibration_slope"][0] == pytest.approx(best.x[1], abs=1e-6)


def test_the_parts_of_the_brier_score():
    """By loops over the groups; and reliability - resolution + e (1 - e) is the score exactly, in every resample."""
    p, y, patients = sample(400, digits=2, seed=4)
    found, weights = resampled(p, y, patients)
    group = np.searchsorted(np.quantile(p, np.linspace(0, 1, 11)[1:-1]), p, side="left")
    for b, weight in enumerate(weights):
        n, events = weight.sum(), (weight * y).sum() / weight.sum()
        reliability = resolution = within = together = 0.0
        for g in range(10):
            w = weight * (group == g)
            if not w.sum():
                continue
            mean, share = (w * p).sum() / w.sum(), (w * y).sum() / w.sum()
            reliability += w.sum() / n * (mean - share) ** 2
            resolution += w.sum() / n * (share - events) ** 2
            within += (w * (p - mean) ** 2).sum() / n  # Stephenson's further two parts
            together += 2 * (w * (p - mean) * (y - share)).sum() / n
        apart = sum(abs((weight * (group == g) * (p - y)).sum()) for g in range(10)) / n
        assert found["ece"][b] == pytest.approx(apart, abs=1e-12)
        assert found["expected_observed"][b] == pytest.approx((weight * p).sum() / (weight * y).sum(), abs=1e-12)
        score = brier_score_loss(y, p, sample_weight=weight)
        assert found["brier_reliability"][b] == pytest.approx(reliability, abs=1e-12)
        assert found["brier_resolution"][b] == pytest.approx(resolution - within + together, abs=1e-12)
        assert found["brier_reliability"][b] - found["brier_resolution"][b] + events * (1 - events) == pytest.approx(
            score, abs=1e-12
        )


def test_calibrated_groups_have_murphys_parts():
    """Risks that are equal within groups: Murphy's resolution itself."""
    p, y = np.repeat([0.1, 0.5, 0.9], 20), np.tile(np.repeat([0.0, 1.0], [8, 2]), 6)
    y[20:40] = np.repeat([0.0, 1.0], 10)
    y[40:] = np.repeat([0.0, 1.0], [2, 18])
    found = Risks.of(p, y, np.arange(60), cohort=60).metrics(np.ones((1, 60), np.int64))
    shares = np.array([y[:20].mean(), 0.5, 0.9])
    assert found["brier_reliability"][0] == pytest.approx(((np.array([0.1, 0.5, 0.9]) - shares) ** 2).mean())
    assert found["brier_resolution"][0] == pytest.approx(((shares - y.mean()) ** 2).mean())


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_one_class_defines_nothing_but_the_errors(outcome):
    found = Risks.of(np.linspace(0.1, 0.9, 30), np.full(30, outcome), np.arange(30), cohort=30).metrics(
        np.ones((2, 30), np.int64)
    )
    for metric in ("auroc", "auprc", "sensitivity_at_90", "calibration_in_the_large", "calibration_slope"):
        assert np.isnan(found[metric]).all(), metric
    for metric in ("brier", "brier_reliability", "brier_resolution", "ece"):
        assert np.isfinite(found[metric]).all(), metric


def test_one_patient_and_nobody():
    found = Risks.of(np.array([0.2, 0.7, 0.4]), np.array([0.0, 1, 0]), np.zeros(3, int), cohort=1).metrics(
        np.array([[1], [2], [0]])
    )
    for metric, values in found.items():
        assert np.isnan(values[2]), metric
        assert values[0] == pytest.approx(values[1], abs=1e-9, nan_ok=True), metric
    assert found["auroc"][0] == 1.0 and np.isnan(found["calibration_slope"][0])  # separated


def test_equal_risks_have_an_intercept_and_no_slope():
    y = np.repeat([0.0, 1.0], [30, 10])
    found = Risks.of(np.full(40, 0.5), y, np.arange(40), cohort=40).metrics(np.ones((1, 40), np.int64))
    assert found["calibration_in_the_large"][0] == pytest.approx(logit(0.25), abs=1e-12)
    assert np.isnan(found["calibration_slope"][0])
    assert found["sensitivity_at_90"][0] == 0.0  # nobody can be called at 90 % specificity
    assert found["brier_resolution"][0] == pytest.approx(0.0, abs=1e-12)


def test_certain_risks_are_not_infinite():
    p, y = np.repeat([0.0, 1.0, 0.3], 10), np.tile([0.0, 1.0], 15)
    found = Risks.of(p, y, np.arange(30), cohort=30).metrics(np.ones((1, 30), np.int64))
    clipped = np.clip(p, expit(-30), 1 - 1e-13)
    assert found["calibration_in_the_large"][0] == pytest.approx(intercept_of(clipped, y, np.ones(30)), abs=1e-3)
    assert np.isfinite(found["calibration_slope"]).all()


def test_the_sensitivity_stands_on_attained_points():
    """Ten others: one may be called. The second highest other stands between the third and the fourth event."""
    p = np.array([0.9, 0.8, 0.85, 0.7, 0.65, 0.6, *np.linspace(0.1, 0.3, 8)])
    y = np.array([0.0, 1, 1, 1, 0, 1, *[0.0] * 8])
    found = Risks.of(p, y, np.arange(14), cohort=14).metrics(np.ones((1, 14), np.int64))
    assert found["sensitivity_at_90"][0] == 0.75
    tied = np.where(y == 1, 0.5, p)
    found = Risks.of(tied, y, np.arange(14), cohort=14).metrics(np.ones((1, 14), np.int64))
    assert found["sensitivity_at_90"][0] == 0.0  # the four events stand below two others
