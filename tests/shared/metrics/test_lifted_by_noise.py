"""Metrics that noise alone lifts (ECE, reliability, resolution): the interval reaches down to where the truth is."""

from __future__ import annotations

import numpy as np
import pytest

from fl_shared.metrics.bootstrap import bootstrap
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.outcomes import Risks
from fl_shared.study import TaskPlan

LIFTED = ("ece", "brier_reliability", "brier_resolution")


def cohort(n, seed):
    """Risks that are too extreme."""
    rng = np.random.default_rng(seed)
    logits = 1.2 * rng.normal(size=n) - 1.5
    return 1 / (1 + np.exp(-logits / 0.8)), (rng.random(n) < 1 / (1 + np.exp(-logits))).astype(float)


def rows_of(risks, targets, *, resamples, seed=0):
    columns = targets.reshape(len(targets), -1)
    plan = TaskPlan(type="multilabel", labels=("x", "y")) if columns.shape[1] > 1 else TaskPlan(type="binary")
    rows, _ = evaluate_predictions(
        site="a", role="external", task="t", plan=plan, modalities="all", model="m", targets=columns,
        predictions=risks.reshape(len(risks), -1), mask=np.ones(columns.shape, bool), patients=np.arange(len(risks)),
        bootstrap=resamples, seed=seed, min_patients=10,
    )  # fmt: skip
    return {(row.label, row.metric): row for row in rows}


def by_hand(risks, targets, *, resamples):
    """Resamples of each metric, less what lifts them."""
    n = len(risks)
    measure = Risks.of(risks, targets, np.arange(n), cohort=n)
    (draws,) = bootstrap([measure], cohort=n, samples=n, resamples=resamples, seed=0)
    value = measure.metrics(np.ones((1, n), dtype=np.int64))
    return {name: (draws[name], float(draws[name].mean() - value[name][0])) for name in LIFTED}


def test_the_lower_end_moves_twice_the_upper_once():
    risks, targets = cohort(300, 0)
    rows = rows_of(risks, targets, resamples=400)
    for name, (draws, excess) in by_hand(risks, targets, resamples=400).items():
        low, high = np.percentile(draws, [2.5, 97.5])
        row, least = rows["", name], -1.0 if name == "brier_resolution" else 0.0
        assert excess > 0
        assert row.ci_high == pytest.approx(high - excess, abs=5.1e-5)
        assert row.ci_low == pytest.approx(max(max(low - excess, least) - excess, least), abs=5.1e-5)
        assert row.ci_low <= row.value <= row.ci_high


def test_the_mean_over_labels_moves_by_the_mean_excess():
    one, two = cohort(300, 1), cohort(300, 2)
    rows = rows_of(np.stack([one[0], two[0]], axis=1), np.stack([one[1], two[1]], axis=1), resamples=400)
    parts = [by_hand(*each, resamples=400)["brier_resolution"] for each in (one, two)]
    excess = np.mean([each for _, each in parts])
    low = np.percentile(np.mean([draws for draws, _ in parts], axis=0), 2.5)
    assert rows["macro", "brier_resolution"].ci_low == pytest.approx(low - 2 * excess, abs=5.1e-5)


def test_the_truth_is_held():
    truth = {"ece": 0.0345, "brier_reliability": 0.0013, "brier_resolution": 0.0340}  # of 1.2 million patients
    hits = dict.fromkeys(truth, 0)
    for seed in range(150):
        rows = rows_of(*cohort(400, seed), resamples=200, seed=seed)
        for name, value in truth.items():
            hits[name] += rows["", name].ci_low <= value <= rows["", name].ci_high
    assert min(hits.values()) >= 0.88 * 150, hits
