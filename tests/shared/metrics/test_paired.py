"""Differences of two models on the same patients: values, resamples, p, and what small cells withhold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kstest, norm
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from fl_shared.metrics.bootstrap import patient_weights
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.paired import LEAST_P, bootstrap_p, paired_differences
from fl_shared.study import TaskPlan


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def draw(n, *, labels=1, seed=0, better=0.0, share=0.3):
    """Outcomes and the risks of two models that see the same signal, each with its own noise."""
    rng = np.random.default_rng(seed)
    y = (rng.random((n, labels)) < share).astype(float)
    signal = y + rng.normal(size=y.shape)
    return y, sigmoid((1 + better) * signal + rng.normal(size=y.shape)), sigmoid(signal + rng.normal(size=y.shape))


def common(y, **more):
    labels = y.shape[1]
    plan = TaskPlan(type="multilabel", labels=tuple("xyz"[:labels])) if labels > 1 else TaskPlan(type="binary")
    rest = {"mask": np.ones(y.shape, bool), "patients": np.arange(len(y)), "bootstrap": 300, "min_patients": 10}
    place = {"site": "a", "role": "external", "task": "t", "modalities": "all", "seed": 7, "plan": plan}
    return {**place, **rest, "targets": y, **more}


def compared(y, one, other, **more):
    found = paired_differences(
        **common(y, **more), model="new", against="old", predictions=one, predictions_against=other
    )
    return {(row.label, row.metric): row for row in found}


def alone(y, risks, **more):
    rows, _ = evaluate_predictions(**common(y, **more), model="m", predictions=risks)
    return {(row.label, row.metric): row for row in rows}


def test_differences_are_those_of_the_rows():
    y, one, other = draw(300, labels=3)
    found, first, second = compared(y, one, other), alone(y, one), alone(y, other)
    assert found.keys() == first.keys()
    for key, row in found.items():
        assert row.value == pytest.approx(first[key].value - second[key].value, abs=1.01e-4), key
        assert row.ci_low <= row.value <= row.ci_high
        assert (row.model, row.against, row.n) == ("new", "old", first[key].n)


def test_interval_equals_a_loop_over_sklearn_on_the_same_resamples():
    y, one, other = draw(120, better=0.5)
    patients = np.random.default_rng(1).integers(0, 70, 120)
    found = compared(y, one, other, patients=patients, bootstrap=200)
    names, index = np.unique(patients, return_inverse=True)
    weights = next(patient_weights(len(names), resamples=200, seed=7, rows=200))[:, index]
    for metric, of in (("auroc", roc_auc_score), ("auprc", average_precision_score), ("brier", brier_score_loss)):
        draws = [of(y[:, 0], one[:, 0], sample_weight=w) - of(y[:, 0], other[:, 0], sample_weight=w) for w in weights]
        row = found["", metric]
        assert (row.ci_low, row.ci_high) == pytest.approx(np.percentile(draws, [2.5, 97.5]), abs=5.1e-5)
        if metric != "auroc":
            k = min(sum(d <= 0 for d in draws), sum(d >= 0 for d in draws))
            assert row.p == round(min(1.0, 2 * (k + 1) / 201), 4)
            assert row.test == "bootstrap"


def test_p_of_an_auroc_is_delongs():
    y, one, other = draw(400, better=0.6)
    row = compared(y, one, other)["", "auroc"]
    parts = []
    for risks in (one[:, 0], other[:, 0]):
        high, low = risks[y[:, 0] == 1], risks[y[:, 0] == 0]
        wins = (high[:, None] > low) + 0.5 * (high[:, None] == low)
        parts.append((wins.mean(1), wins.mean(0), wins.mean()))
    (a10, a01, a), (b10, b01, b) = parts
    se = np.sqrt((a10 - b10).var(ddof=1) / len(a10) + (a01 - b01).var(ddof=1) / len(a01))
    assert row.test == "DeLong"
    assert row.p == pytest.approx(2 * norm.sf(abs(a - b) / se), abs=5.1e-5)


def test_a_model_against_itself_and_against_a_far_better_one():
    y, one, _ = draw(200)
    for row in compared(y, one, one).values():
        assert (row.value, row.ci_low, row.ci_high, row.p) == (0.0, 0.0, 0.0, 1.0)
    far = compared(y, np.where(y == 1, 0.99, 0.01), one)
    assert far["", "auroc"].p == LEAST_P
    assert far["", "auprc"].p == round(2 / 301, 4)  # never 0


@pytest.mark.parametrize("metric", ["brier", "auprc"])
def test_p_is_uniform_where_there_is_no_difference(metric):
    p = []
    for seed in range(200):
        y, one, other = draw(150, seed=seed)
        p.append(compared(y, one, other, seed=seed, bootstrap=200)["", metric].p)
    assert kstest(p, "uniform").pvalue > 0.01
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.10


def test_bootstrap_p_by_hand():
    draws = np.array([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, np.nan])
    assert bootstrap_p(draws) == 2 * (1 + 2) / 10
    assert bootstrap_p(np.zeros(99)) == 1.0
    assert bootstrap_p(np.ones(99)) == 0.02


def test_small_cells_withhold_what_they_withhold_of_one_model():
    y = np.repeat([[1.0], [0.0]], [6, 60], axis=0)
    rng = np.random.default_rng(0)
    one, other = sigmoid(y + rng.normal(size=y.shape)), sigmoid(y + rng.normal(size=y.shape))
    found, first = compared(y, one, other), alone(y, one)
    assert {key for key, row in found.items() if row.value is None} == {
        key for key, row in first.items() if row.value is None
    }
    assert found["", "calibration_slope"].note == first["", "calibration_slope"].note != ""
    few = compared(y[:9], one[:9], other[:9])
    assert all((row.value, row.ci_low, row.p, row.n) == (None, None, None, None) for row in few.values())


def test_scores_that_are_not_finite_in_either_model():
    y, one, other = draw(100)
    other[3] = np.nan
    for pair in ((one, other), (other, one)):
        assert all(row.value is None and "finite" in row.note for row in compared(y, *pair).values())


def test_survival_and_a_wrong_shape():
    rng = np.random.default_rng(0)
    plan = TaskPlan(type="survival", survival_model="cox", horizon=100.0, windows=(50.0,))
    risk = rng.normal(size=(150, 1))
    time = rng.exponential(80 * np.exp(-risk[:, 0]))
    y = np.stack([np.minimum(time, 120.0), (time < 120).astype(float)], axis=1)
    noisy = risk + rng.normal(size=risk.shape)
    found = compared(y, risk, noisy, plan=plan)
    first, second = alone(y, risk, plan=plan), alone(y, noisy, plan=plan)
    row = found["", "harrell_c"]
    assert row.value == pytest.approx(first["", "harrell_c"].value - second["", "harrell_c"].value, abs=1.01e-4)
    assert row.ci_low > 0
    assert row.test == "bootstrap"
    with pytest.raises(ValueError, match="expected"):
        compared(y, risk, noisy[:-1], plan=plan)
