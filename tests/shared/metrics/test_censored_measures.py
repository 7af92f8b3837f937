"""Uno's C and the integrated Brier score against scikit-survival and loops, in every resample."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sksurv.metrics import brier_score, concordance_index_censored, concordance_index_ipcw
from sksurv.util import Surv

from fl_shared.metrics.bootstrap import bootstrap, patient_weights
from fl_shared.metrics.integrated_brier import IntegratedBrier
from fl_shared.metrics.survival import ANOTHER, MINE, Concordance

HORIZON, RESAMPLES = 60.0, 12


def cohort(n, *, seed=0, causes=1, censored=0.02, whole=False):
    """Risks with ties, several samples a patient, followed to the horizon; ``whole``: days, so that times tie."""
    rng = np.random.default_rng(seed)
    risk = np.round(rng.normal(size=n), 1)
    time, follow = rng.exponential(30 * np.exp(-0.8 * risk)), rng.exponential(1 / censored, n)
    if whole:
        time, follow = np.ceil(time), np.ceil(follow)
    seen, cause = np.minimum(time, follow), np.where(time <= follow, rng.integers(1, causes + 1, n), 0)
    cause[seen > HORIZON] = 0
    return risk, np.minimum(seen, HORIZON), cause, rng.integers(0, max(2, 2 * n // 3), n)


def drawn(measure, patients, *, samples):
    count = int(patients.max()) + 1
    (found,) = bootstrap([measure], cohort=count, samples=samples, resamples=RESAMPLES, seed=1)
    weights = np.concatenate(list(patient_weights(count, resamples=RESAMPLES, seed=1, rows=RESAMPLES)))
    return found, [np.repeat(np.arange(samples), weight[patients]) for weight in weights]


def apart(time, cause):
    """Censorings a little later: scikit-survival asks its curve of the censoring at an event, ours just before it."""
    return time + np.where(cause == 0, 1e-7, 0.0)


@pytest.mark.parametrize("whole", [False, True], ids=["all times differ", "times tie"])
def test_both_c_equal_scikit_survivals_in_every_resample(whole):
    risk, time, cause, patients = cohort(150, seed=2, whole=whole)
    found, rows = drawn(Concordance.of(risk, time, cause, patients), patients, samples=150)
    for b, row in enumerate(rows):
        event, when = cause[row] == 1, apart(time, cause)[row]
        everybody = Surv.from_arrays(event, when)
        uno = concordance_index_ipcw(everybody, everybody, risk[row], tau=HORIZON + 1)[0]
        assert found["uno_c"][b] == pytest.approx(uno, abs=1e-9)
        assert found["harrell_c"][b] == pytest.approx(concordance_index_censored(event, when, risk[row])[0], abs=1e-9)


def followed_before(time, cause, day):
    """Kaplan-Meier of the censoring just before ``day``; at equal times events leave first."""
    share = 1.0
    for t in sorted({t for t, c in zip(time, cause, strict=True) if c == 0 and t < day}):
        gone = ((time == t) & (cause == 0)).sum()
        share *= 1 - gone / ((time > t).sum() + gone)
    return share


def of_pairs(risk, time, cause):
    """Wolbers et al. 2014 (and Uno 2011 with a single cause), pair by pair."""
    share = [followed_before(time, cause, t) for t in time]
    right = pairs = 0.0
    for i in np.flatnonzero(cause == MINE):
        for j in range(len(time)):
            later = time[j] > time[i] or (time[j] == time[i] and cause[j] != MINE)
            before = cause[j] == ANOTHER and time[j] < time[i]
            weight = later / share[i] ** 2 + (before / (share[i] * share[j]) if before else 0.0)
            pairs += weight
            right += weight * ((risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return right / pairs if pairs else math.nan


@pytest.mark.parametrize("whole", [False, True])
def test_of_competing_causes_pairs_count_as_wolbers_says(whole):
    risk, time, cause, patients = cohort(80, seed=5, causes=2, whole=whole)
    assert (cause == ANOTHER).sum() > 15
    found, rows = drawn(Concordance.of(risk, time, cause, patients), patients, samples=80)
    for b, row in enumerate(rows):
        assert found["uno_c"][b] == pytest.approx(of_pairs(risk[row], time[row], cause[row]), abs=1e-9)


def test_uno_repairs_what_censoring_does_to_harrell():
    """High risks are told apart early, low ones are all alike and late: with censoring the early pairs prevail."""
    rng = np.random.default_rng(0)
    n = 4000
    risk = rng.normal(size=n)
    time = rng.exponential(20 * np.exp(-np.where(risk > 0.5, 3 * risk, 0.0)))
    everyone, whole = np.ones((1, n), np.int64), Concordance.of(risk, np.minimum(time, 30), time <= 30, np.arange(n))
    truth = whole.metrics(everyone)["harrell_c"][0]
    follow = rng.exponential(12, n)
    seen = np.minimum(np.minimum(time, follow), 30)
    found = Concordance.of(risk, seen, (time <= follow) & (time <= 30), np.arange(n)).metrics(everyone)
    assert abs(found["uno_c"][0] - truth) < 0.01 < 0.03 < abs(found["harrell_c"][0] - truth)


DAYS = tuple(np.linspace(3, HORIZON, 20))


def course(risk, n, *, seed=0):
    """Risks (n, 20) that rise with the days."""
    steps = np.random.default_rng(seed).random((n, len(DAYS))) * np.exp(0.5 * risk)[:, None] * 0.06
    return 1 - np.exp(-np.cumsum(steps, axis=1))


def integral(values):
    """Trapezoid over the days from 0, where the score is 0, over the horizon."""
    days, scores = np.array([0.0, *DAYS]), np.array([0.0, *values])
    return float((np.diff(days) * (scores[1:] + scores[:-1]) / 2).sum() / HORIZON)


@pytest.mark.parametrize("whole", [False, True], ids=["all times differ", "times tie"])
def test_the_integrated_brier_score_equals_scikit_survivals_in_every_resample(whole):
    risk, time, cause, patients = cohort(140, seed=7, whole=whole)
    risks = course(risk, 140)
    measure = IntegratedBrier.of(risks, time, cause, patients, days=DAYS, cohort=patients.max() + 1)
    found, rows = drawn(measure, patients, samples=140)
    for b, row in enumerate(rows):
        when = apart(time, cause)[row]
        everybody = Surv.from_arrays(cause[row] == 1, when)
        inside = [k for k, day in enumerate(DAYS) if when.min() < day < when.max()]
        scores = np.zeros(len(DAYS))
        scores[inside] = brier_score(everybody, everybody, 1 - risks[row][:, inside], np.array(DAYS)[inside])[1]
        for k in set(range(len(DAYS))) - set(inside):  # before the first time nobody has an event
            scores[k] = np.mean(risks[row, k] ** 2)
        assert found["ibs"][b] == pytest.approx(integral(scores), abs=1e-9)


def test_of_competing_causes_another_one_is_no_event():
    risk, time, cause, patients = cohort(60, seed=9, causes=2, whole=True)
    risks = course(risk, 60)
    measure = IntegratedBrier.of(risks, time, cause, patients, days=DAYS, cohort=patients.max() + 1)
    found, rows = drawn(measure, patients, samples=60)
    for b, row in enumerate(rows):
        t, c, scores = time[row], cause[row], []
        for k, day in enumerate(DAYS):
            total = 0.0
            for i in range(len(row)):
                told = risks[row[i], k]
                if c[i] > 0 and t[i] <= day:
                    total += ((c[i] == MINE) - told) ** 2 / followed_before(t, c, t[i])
                elif t[i] > day or (t[i] == day and c[i] == 0):
                    total += told**2 / followed_before(t, c, day)
            scores.append(total / len(row) if followed_before(t, c, day) else math.nan)  # nobody knows
        assert found["ibs"][b] == pytest.approx(integral(scores), abs=1e-9, nan_ok=True)
    assert np.isfinite(found["ibs"]).sum() >= RESAMPLES - 3


def test_known_scores():
    """Nobody is censored: a mean of squares. Always a half: a quarter, from the first day on."""
    time, cause = np.array([10.0, 40.0, 60.0, 60.0]), np.array([1, 1, 0, 0])
    ones = np.ones((1, 4), np.int64)
    half = IntegratedBrier.of(np.full((4, 20), 0.5), time, cause, np.arange(4), days=DAYS, cohort=4).metrics(ones)
    assert half["ibs"][0] == pytest.approx(integral([0.25] * 20), abs=1e-12)
    seen = (time[:, None] <= np.array(DAYS)) & (cause[:, None] == 1)
    right = IntegratedBrier.of(seen.astype(float), time, cause, np.arange(4), days=DAYS, cohort=4).metrics(ones)
    assert right["ibs"][0] == 0.0


def test_all_censored_one_patient_and_nobody():
    time, never = np.linspace(1, 50, 8), np.zeros(8, int)
    risks, everyone = np.full((8, 20), 0.2), np.ones((1, 8), np.int64)
    ordered = Concordance.of(np.arange(8.0), time, never, np.arange(8)).metrics(everyone)
    assert np.isnan(ordered["harrell_c"]).all() and np.isnan(ordered["uno_c"]).all()
    scored = IntegratedBrier.of(risks, time, never, np.arange(8), days=DAYS, cohort=8).metrics(everyone)
    assert np.isnan(scored["ibs"]).all()  # nobody was followed to the horizon: not known
    time[-1] = HORIZON
    scored = IntegratedBrier.of(risks, time, never, np.arange(8), days=DAYS, cohort=8).metrics(everyone)
    assert scored["ibs"][0] == pytest.approx(integral([0.04] * 20))
    alone = np.ones(8, int)
    weights = np.array([[1], [3], [0]])
    one = Concordance.of(np.arange(8.0), -time, alone, np.zeros(8, int)).metrics(weights)
    assert one["uno_c"].tolist() == pytest.approx([1.0, 1.0, math.nan], nan_ok=True)
    scored = IntegratedBrier.of(risks, time, alone, np.zeros(8, int), days=DAYS, cohort=1).metrics(weights)
    assert scored["ibs"][0] == pytest.approx(scored["ibs"][1]) and np.isnan(scored["ibs"][2])


def test_equal_risks_are_a_coin_toss():
    _, time, cause, patients = cohort(50, causes=2, whole=True)
    found = Concordance.of(np.ones(50), time, cause, patients).metrics(np.ones((1, patients.max() + 1), np.int64))
    assert found["harrell_c"][0] == found["uno_c"][0] == pytest.approx(0.5, abs=1e-12)
