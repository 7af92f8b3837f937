"""DeLong's covariance against the paper's own patients, a loop over pairs, and the bootstrap of patients."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fl_shared.metrics.bootstrap import bootstrap
from fl_shared.metrics.delong import delong
from fl_shared.metrics.discrimination import auroc
from fl_shared.metrics.outcomes import Risks

# DeLong, DeLong and Clarke-Pearson 1988: albumin, total protein, K-G score, outcome of patients with ovarian cancer
PATIENTS = """
3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


@pytest.mark.parametrize(
    ("column", "area", "error", "difference", "of_difference", "p"),
    [(0, 0.7366, 0.0927, 0.0108, 0.0953, 0.9102), (1, 0.6478, 0.1000, -0.0780, 0.1046, 0.4561)],
    ids=["albumin", "protein"],
)
def test_the_papers_patients(column, area, error, difference, of_difference, p) -> None:
    """Areas, standard errors and tests against the K-G score as SAS' PROC LOGISTIC gives them (ROCCONTRAST)."""
    table = np.array(PATIENTS.split(), dtype=float).reshape(-1, 4)
    found = delong(table[:, column], -table[:, 2], table[:, 3], np.arange(len(table)))
    assert found.aurocs.tolist() == pytest.approx([area, 0.7258], abs=5e-5)
    assert np.sqrt(np.diag(found.covariance)).tolist() == pytest.approx([error, 0.1028], abs=5e-5)
    assert found.difference == pytest.approx(difference, abs=5e-5)
    assert math.sqrt(found.variance) == pytest.approx(of_difference, abs=5e-5)
    assert found.p == pytest.approx(p, abs=5e-5)


def sample(n, *, seed, patients=None):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < 0.4).astype(float)
    a, b = (np.round(y + rng.normal(0, s, n), 1) for s in (1.0, 1.5))  # ties
    return a, b, y, np.arange(n) if patients is None else rng.integers(0, patients, n) * 7 - 100


def by_pairs(scores, y, patients):
    """Obuchowski 1997 in plain loops: areas and covariance."""
    events, others = np.flatnonzero(y == 1), np.flatnonzero(y == 0)
    m, n, ids = len(events), len(others), sorted(set(patients.tolist()))
    won = [[[(s[i] > s[j]) + 0.5 * (s[i] == s[j]) for j in others] for i in events] for s in scores]
    areas = [sum(map(sum, each)) / (m * n) for each in won]
    tens = [{k: 0.0 for k in ids} for _ in scores]
    ones = [{k: 0.0 for k in ids} for _ in scores]
    for k, each in enumerate(won):
        for row, i in zip(each, events, strict=True):
            tens[k][patients[i]] += sum(row) / n - areas[k]
        for column, j in enumerate(others):
            ones[k][patients[j]] += sum(row[column] for row in each) / m - areas[k]
    i10, i01 = len(set(patients[events].tolist())), len(set(patients[others].tolist()))
    covariance = np.empty((2, 2))
    for r in range(2):
        for s in range(2):
            s10 = i10 / ((i10 - 1) * m) * sum(tens[r][k] * tens[s][k] for k in ids)
            s01 = i01 / ((i01 - 1) * n) * sum(ones[r][k] * ones[s][k] for k in ids)
            s11 = len(ids) / (len(ids) - 1) * sum(tens[r][k] * ones[s][k] + tens[s][k] * ones[r][k] for k in ids)
            covariance[r, s] = s10 / m + s01 / n + s11 / (m * n)
    return areas, covariance


@pytest.mark.parametrize("patients", [None, 25])
@pytest.mark.parametrize("seed", range(3))
def test_equals_a_loop_over_pairs_with_and_without_clusters(patients, seed) -> None:
    a, b, y, who = sample(60, seed=seed, patients=patients)
    found = delong(a, b, y, who)
    areas, covariance = by_pairs((a, b), y, who)
    np.testing.assert_allclose(found.aurocs, areas, atol=1e-12)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-12)
    assert found.aurocs[0] == pytest.approx(auroc(a, y), abs=1e-12)


def test_samples_of_a_patient_are_not_independent() -> None:
    """Every sample four times: the variance is that of each once, as the bootstrap of patients finds it."""
    rng = np.random.default_rng(5)
    y = (rng.random(200) < 0.4).astype(float)
    a = 1 / (1 + np.exp(-y - rng.normal(size=200)))
    once = delong(a, -a, y, np.arange(200))
    many = delong(*(np.repeat(each, 4) for each in (a, -a, y)), np.repeat(np.arange(200), 4))
    np.testing.assert_allclose(many.covariance, once.covariance, atol=1e-12)
    measure = Risks.of(np.repeat(a, 4), np.repeat(y, 4), np.repeat(np.arange(200), 4), cohort=200)
    (drawn,) = bootstrap([measure], cohort=200, samples=800, resamples=2000, seed=0)
    assert drawn["auroc"].std() == pytest.approx(math.sqrt(once.covariance[0, 0]), rel=0.06)


def test_where_nothing_can_be_said() -> None:
    a, b, y, who = sample(30, seed=0)
    assert delong(a, a, y, who).p == 1.0  # the same ranks
    assert delong(a, np.exp(a), y, who).difference == 0.0
    for outcome in (np.zeros(30), np.ones(30)):
        nothing = delong(a, b, outcome, who)
        assert np.isnan(nothing.aurocs).all() and np.isnan(nothing.covariance).all() and math.isnan(nothing.p)
    for patients in (np.zeros(30, int), np.where(y == 1, 0, who + 1)):  # one patient; one patient has all events
        alone = delong(a, b, y, patients)
        assert np.isfinite(alone.aurocs).all() and np.isnan(alone.covariance).all() and math.isnan(alone.p)
    assert math.isnan(delong([], [], [], []).difference)


def test_a_perfect_order_against_its_reverse() -> None:
    y = np.repeat([0.0, 1.0], 15)
    found = delong(np.arange(30.0), -np.arange(30.0), y, np.arange(30))
    assert (found.aurocs.tolist(), found.variance, found.p) == ([1.0, 0.0], 0.0, 0.0)
