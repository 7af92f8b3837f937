"""The bootstrap against a loop over scikit-learn, against DeLong, and against its own clustering."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from fl_shared.metrics import bootstrap as module
from fl_shared.metrics.bootstrap import bootstrap, interval, patient_weights
from fl_shared.metrics.outcomes import Risks


def sample(n, labels=1, *, seed=0, digits=2):
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, labels)) < 0.3).astype(float)
    scores = np.round(1 / (1 + np.exp(-(targets + rng.normal(size=targets.shape)))), digits)
    return scores, targets


def resampled(scores, targets, mask, patients, *, resamples, seed):
    """Metrics (B, C) of every label."""
    names, patient = np.unique(patients, return_inverse=True)
    measures = [
        Risks.of(p[known], y[known], patient[known], cohort=len(names))
        for p, y, known in zip(scores.T, targets.T, mask.T, strict=True)
    ]
    found = bootstrap(measures, cohort=len(names), samples=len(patients), resamples=resamples, seed=seed)
    return {name: np.stack([each[name] for each in found], axis=1) for name in found[0]}


def all_weights(cohort, resamples, seed):
    return np.concatenate(list(patient_weights(cohort, resamples=resamples, seed=seed, rows=resamples)))


@pytest.mark.parametrize("cells", [2**21, 300])  # one chunk, and chunks of a few rows
def test_equals_a_loop_over_sklearn(monkeypatch, cells):
    monkeypatch.setattr(module, "CHUNK_CELLS", cells)
    scores, targets = sample(90, labels=2)
    patients = np.random.default_rng(1).integers(0, 60, 90) * 7 - 100  # arbitrary ids, several samples each
    mask = np.random.default_rng(2).random(scores.shape) < 0.9
    found = resampled(scores, targets, mask, patients, resamples=40, seed=5)
    names, index = np.unique(patients, return_inverse=True)
    rows = max(1, cells // 90)
    weights = np.concatenate(list(patient_weights(len(names), resamples=40, seed=5, rows=rows)))[:, index]
    for label in range(2):
        known = mask[:, label]
        p, y = scores[known, label], targets[known, label]
        for b, weight in enumerate(weights[:, known]):
            expected = {
                "auroc": roc_auc_score(y, p, sample_weight=weight),
                "auprc": average_precision_score(y, p, sample_weight=weight),
                "brier": brier_score_loss(y, p, sample_weight=weight),
            }
            for metric, value in expected.items():
                assert found[metric][b, label] == pytest.approx(value, abs=1e-12)


def test_chunks_do_not_change_the_resamples():
    whole = all_weights(50, 20, 3)
    np.testing.assert_array_equal(whole, np.concatenate(list(patient_weights(50, resamples=20, seed=3, rows=7))))
    assert (whole.sum(axis=1) == 50).all()


def test_weights_are_multinomial():
    weights = all_weights(40, 5000, 0)
    assert weights.mean() == 1.0
    assert weights.var() == pytest.approx(1 - 1 / 40, abs=0.02)
    assert np.cov(weights[:, 0], weights[:, 1])[0, 1] == pytest.approx(-1 / 40, abs=0.05)


def test_a_patients_samples_move_together():
    scores, targets = sample(120, seed=4)
    alone = resampled(scores, targets, np.ones_like(scores, bool), np.arange(120), resamples=400, seed=0)
    repeated = np.repeat(scores, 5, axis=0), np.repeat(targets, 5, axis=0)
    many = resampled(*repeated, np.ones((600, 1), bool), np.repeat(np.arange(120), 5), resamples=400, seed=0)
    np.testing.assert_allclose(many["auroc"], alone["auroc"], atol=1e-12)  # copies of a patient add no information
    naive = resampled(*repeated, np.ones((600, 1), bool), np.arange(600), resamples=400, seed=0)
    assert np.nanstd(naive["auroc"]) < 0.6 * np.nanstd(alone["auroc"])


def delong_se(scores, targets):
    """Standard error of AUROC (DeLong 1988), by its definition."""
    high, low = scores[targets == 1], scores[targets == 0]
    wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
    return np.sqrt(wins.mean(1).var(ddof=1) / len(high) + wins.mean(0).var(ddof=1) / len(low))


def test_spread_agrees_with_delong():
    scores, targets = sample(500, seed=8, digits=12)
    found = resampled(scores, targets, np.ones_like(scores, bool), np.arange(500), resamples=4000, seed=0)["auroc"]
    assert found.std() == pytest.approx(delong_se(scores[:, 0], targets[:, 0]), rel=0.06)


def test_resamples_of_one_class_are_left_out():
    scores, targets = np.array([[0.9], [0.8], [0.2], [0.1]]), np.array([[1.0], [0], [0], [0]])
    found = resampled(scores, targets, np.ones((4, 1), bool), np.arange(4), resamples=2000, seed=0)
    got = interval(found["auroc"][:, 0])
    assert got.left_out == pytest.approx(0.75**4 + 0.25**4, abs=0.04)
    assert (got.low, got.high) == (1.0, 1.0)
    assert interval(found["brier"][:, 0]).left_out == 0.0


def test_no_resample_no_interval():
    got = interval(np.full(10, np.nan))
    assert (got.low, got.high, got.left_out) == (None, None, 1.0)
