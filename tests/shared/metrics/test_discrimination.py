"""AUROC, average precision and curves against scikit-learn and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as oracle

from fl_shared.metrics.discrimination import Ranking, auroc, average_precision, pr_curve, roc_curve


def sample(n, *, digits, seed):
    rng = np.random.default_rng(seed)
    targets = (rng.random(n) < 0.3).astype(float)
    scores = np.round(1 / (1 + np.exp(-(targets + rng.normal(size=n)))), digits)
    return scores, targets


@pytest.mark.parametrize("digits", [0, 1, 2, 12])  # from almost all tied to none tied
@pytest.mark.parametrize("n", [20, 333])
def test_equals_sklearn_with_ties(n, digits):
    scores, targets = sample(n, digits=digits, seed=n + digits)
    assert auroc(scores, targets) == pytest.approx(oracle.roc_auc_score(targets, scores), abs=1e-12)
    assert average_precision(scores, targets) == pytest.approx(
        oracle.average_precision_score(targets, scores), abs=1e-12
    )


def test_integer_weights_equal_repeated_samples():
    scores, targets = sample(60, digits=1, seed=3)
    weights = np.random.default_rng(0).integers(0, 4, size=(5, 60))
    ranking = Ranking.of(scores, targets)
    found = ranking.auroc_ap(weights[:, ranking.events], weights[:, ranking.others])
    for row, got_auroc, got_ap in zip(weights, *found, strict=True):
        repeated = np.repeat(scores, row), np.repeat(targets, row)
        assert got_auroc == pytest.approx(auroc(*repeated), abs=1e-12)
        assert got_ap == pytest.approx(oracle.average_precision_score(repeated[1], repeated[0]), abs=1e-12)


def test_constant_scores_are_chance_and_perfect_scores_are_one():
    targets = np.array([0.0, 1, 0, 1, 1])
    assert auroc(np.full(5, 0.3), targets) == 0.5
    assert average_precision(np.full(5, 0.3), targets) == pytest.approx(0.6)
    assert (auroc(targets, targets), average_precision(targets, targets)) == (1.0, 1.0)


@pytest.mark.parametrize("targets", [np.zeros(4), np.ones(4), np.empty(0)])
def test_a_single_class_is_not_defined(targets):
    scores = np.linspace(0, 1, len(targets))
    assert np.isnan(auroc(scores, targets))
    assert np.isnan(average_precision(scores, targets))


def test_binormal_auroc_has_its_closed_form():
    from scipy.stats import norm

    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(0, 1, 20_000), rng.normal(1, 1, 20_000)])
    assert auroc(scores, np.repeat([0, 1], 20_000)) == pytest.approx(norm.cdf(1 / np.sqrt(2)), abs=0.006)


@pytest.mark.parametrize("digits", [1, 12])
def test_roc_curve_passes_through_sklearn_points(digits):
    scores, targets = sample(200, digits=digits, seed=5)
    false, true, _ = oracle.roc_curve(targets, scores, drop_intermediate=False)
    upper = {x: y for x, y in zip(false, true, strict=True)}  # the last point at each x is the highest
    grid = np.array(sorted(upper))
    np.testing.assert_allclose(roc_curve(scores, targets, grid=grid), [upper[x] for x in grid], atol=1e-12)
    curve = roc_curve(scores, targets)
    assert curve[-1] == 1.0
    assert (np.diff(curve) >= 0).all()


def test_ties_are_joined_by_a_straight_line():
    np.testing.assert_allclose(
        roc_curve([0.5] * 4, [0, 1, 0, 1], grid=np.array([0, 0.25, 1.0])), [0, 0.25, 1.0], atol=1e-12
    )


def test_pr_curve_takes_the_highest_threshold_that_reaches_a_recall():
    scores, targets = sample(200, digits=2, seed=6)
    precision, recall, _ = oracle.precision_recall_curve(targets, scores)
    grid = np.array([0.1, 0.5, 0.9, 1.0])
    expected = [precision[np.flatnonzero(recall >= wanted - 1e-12)[-1]] for wanted in grid]
    np.testing.assert_allclose(pr_curve(scores, targets, grid=grid), expected, atol=1e-12)


def test_a_curve_of_one_class_is_refused():
    with pytest.raises(ValueError, match="events and non-events"):
        roc_curve([0.1, 0.2], [1, 1])
