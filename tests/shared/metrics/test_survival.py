"""Harrell's C and Uno's AUC against loops over all pairs, resample by resample."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fl_shared.metrics import survival as module
from fl_shared.metrics.discrimination import auroc
from fl_shared.metrics.survival import Concordance, TimedRanking, outcome_by


def sample(n, *, seed=0, censored=0.03):
    """Risks with ties, times in whole days (events and censorings coincide), several samples a patient."""
    rng = np.random.default_rng(seed)
    risk = np.round(rng.normal(size=n), 1)
    time = np.ceil(rng.exponential(30 * np.exp(-0.8 * risk)))
    follow = np.ceil(rng.exponential(1 / censored, size=n))
    return risk, np.minimum(time, follow), time <= follow, rng.integers(0, max(2, n * 2 // 3), n)


def weightings(patients, *, resamples, seed):
    cohort = patients.max() + 1
    drawn = np.random.default_rng(seed).integers(0, cohort, (resamples, cohort))
    return np.stack([np.bincount(row, minlength=cohort) for row in drawn]), cohort


def harrell(risk, time, event, weight):
    pairs = concordant = 0.0
    for i in np.flatnonzero(event):
        for j in range(len(risk)):
            if time[j] > time[i] or (time[j] == time[i] and not event[j]):
                pairs += weight[i] * weight[j]
                concordant += weight[i] * weight[j] * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return concordant / pairs if pairs else math.nan


def followed_before(time, event, weight, day):
    """Kaplan-Meier of the censoring just before ``day``; at equal times events leave first."""
    share = 1.0
    for t in sorted({t for t, e in zip(time, event, strict=True) if not e and t < day}):
        gone = sum(w for u, e, w in zip(time, event, weight, strict=True) if u == t and not e)
        at_risk = sum(w for u, e, w in zip(time, event, weight, strict=True) if u > t or (u == t and not e))
        share *= 1 - gone / at_risk if at_risk else 1.0
    return share


def uno(risk, time, event, weight, day):
    above = total = 0.0
    for i in np.flatnonzero(event & (time <= day)):
        if weight[i] == 0:
            continue
        case = weight[i] / followed_before(time, event, weight, time[i])
        for j in range(len(risk)):
            if time[j] > day or (time[j] == day and not event[j]):
                total += case * weight[j]
                above += case * weight[j] * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return above / total if total else math.nan


@pytest.mark.parametrize("cells", [2**22, 100])  # one block of pairs, and many
def test_harrell_equals_a_loop_over_pairs(monkeypatch, cells):
    monkeypatch.setattr(module, "BLOCK_CELLS", cells)
    risk, time, event, patients = sample(70)
    weights, _ = weightings(patients, resamples=12, seed=1)
    found = Concordance.of(risk, time, event, patients).metrics(weights)["harrell_c"]
    expected = [harrell(risk, time, event, row[patients]) for row in weights]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert 0.5 < np.mean(found) < 0.95


def test_a_competing_event_stays_at_risk_for_ever():
    """Wolbers: patients 1 and 2 die of something else before and after patient 0's event; both outlive it."""
    time, event = np.array([5.0, np.inf, np.inf, 2.0]), np.array([True, False, False, False])
    found = Concordance.of(np.array([0.5, 0.1, 0.9, 0.0]), time, event, np.arange(4))
    assert found.metrics(np.ones((1, 4), dtype=np.int64))["harrell_c"] == 0.5  # one right, one wrong, one censored


def test_uno_equals_a_loop_over_pairs_with_its_own_censoring_curve():
    risk, time, event, patients = sample(60, seed=3, censored=0.04)
    weights, _ = weightings(patients, resamples=10, seed=2)
    for day in (10.0, 25.0, 40.0):
        found = TimedRanking.of(risk, time, event, patients, day=day).metrics(weights)["uno_auc"]
        expected = [uno(risk, time, event, row[patients], day) for row in weights]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_uno_repairs_what_leaving_out_the_censored_breaks():
    """Early events are foreseen, late ones are not and are often lost to follow-up: the known alone flatter."""
    rng = np.random.default_rng(0)
    n, day = 20_000, 60.0
    risk = rng.normal(size=n)
    time = np.minimum(np.where(risk > 1, rng.exponential(5, n), np.inf), rng.exponential(80, n))
    follow = rng.exponential(25, n)
    seen, event, everyone = np.minimum(time, follow), time <= follow, np.ones((1, n), dtype=np.int64)
    truth = auroc(risk, time <= day)
    value = TimedRanking.of(risk, seen, event, np.arange(n), day=day).metrics(everyone)["uno_auc"][0]
    outcome = outcome_by(day, time=seen, event=event)
    known = np.isfinite(outcome)
    assert value == pytest.approx(truth, abs=0.015)
    assert auroc(risk[known], outcome[known]) > truth + 0.05


def test_without_censoring_uno_is_the_auroc():
    risk, time, _, patients = sample(200, seed=5)
    everyone = np.ones((1, patients.max() + 1), dtype=np.int64)
    found = TimedRanking.of(risk, time, np.ones(200, bool), patients, day=30.0).metrics(everyone)["uno_auc"]
    assert found[0] == pytest.approx(roc_auc_score(time <= 30, risk), abs=1e-12)


def test_nothing_to_compare_is_not_a_number():
    never = np.zeros(5, bool)
    ones = np.ones((1, 5), dtype=np.int64)
    ordered = Concordance.of(np.arange(5.0), np.arange(1.0, 6), never, np.arange(5))
    timed = TimedRanking.of(np.arange(5.0), np.arange(1.0, 6), never, np.arange(5), day=3.0)
    assert np.isnan(ordered.metrics(ones)["harrell_c"]).all()
    assert np.isnan(timed.metrics(ones)["uno_auc"]).all()


def test_who_has_the_event_by_a_day():
    time, event = np.array([10, 10, 9, 9, 11, 11.0]), np.array([1, 0, 1, 0, 1, 0], bool)
    np.testing.assert_array_equal(outcome_by(10.0, time=time, event=event), [1, 0, 1, np.nan, 0, 0])
