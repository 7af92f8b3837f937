"""Rows and curves: values, macro means, and what small cells withhold."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.table import METRICS, metrics_of
from fl_shared.study import TaskPlan


def judge(targets, *, scores=None, patients=None, mask=None, labels=None, headline=(), min_patients=10, bootstrap=200):
    targets = np.asarray(targets, dtype=float)
    targets = targets[:, None] if targets.ndim == 1 else targets
    rng = np.random.default_rng(0)
    scores = 1 / (1 + np.exp(-(targets + rng.normal(size=targets.shape)))) if scores is None else scores
    rows, curves = evaluate_predictions(
        site="a",
        role="external",
        task="t",
        plan=TaskPlan(type="multilabel" if labels else "binary", labels=labels or (), headline=headline),
        modalities="headline",
        model="m",
        predictions=scores.astype(np.float32),
        targets=targets.astype(np.float32),
        mask=np.ones(targets.shape, bool) if mask is None else mask,
        patients=np.arange(len(targets)) if patients is None else patients,
        bootstrap=bootstrap,
        seed=0,
        min_patients=min_patients,
    )
    return {(row.label, row.metric): row for row in rows}, curves, scores.astype(np.float32)


def outcomes(n, events):
    return np.repeat([1.0, 0.0], [events, n - events])


def test_values_intervals_and_counts():
    rows, curves, scores = judge(outcomes(120, 40))
    expected = {"auroc": roc_auc_score, "auprc": average_precision_score, "brier": brier_score_loss}
    for metric, oracle in expected.items():
        row = rows["", metric]
        assert row.value == pytest.approx(oracle(outcomes(120, 40), scores[:, 0]), abs=5e-5)
        assert row.ci_low < row.value < row.ci_high
        assert (row.n, row.events, row.note) == (120, 40, "")
    assert [curve.kind for curve in curves] == ["roc", "pr", "calibration", "decision", "risks"]
    assert ("macro", "auroc") not in rows


def test_macro_is_the_mean_over_the_headline_labels_with_one_set_of_resamples():
    targets = np.random.default_rng(3).random((150, 3)) < [0.3, 0.4, 0.5]
    rows, _, _ = judge(targets, labels=["p", "q", "r"], headline=["p", "q"])
    macro = rows["macro", "auroc"]
    assert macro.value == pytest.approx((rows["p", "auroc"].value + rows["q", "auroc"].value) / 2, abs=1e-4)
    assert (macro.n, macro.events, macro.note) == (150, None, "")
    width = {label: rows[label, "auroc"].ci_high - rows[label, "auroc"].ci_low for label in ("p", "q", "macro")}
    assert width["macro"] < max(width["p"], width["q"])


def test_every_metric_has_a_macro_mean_of_its_labels():
    targets = np.random.default_rng(3).random((300, 3)) < [0.3, 0.4, 0.01]  # of the last label the events are withheld
    rows, _, _ = judge(targets, labels=["p", "q", "r"])
    for metric in metrics_of("multilabel"):
        told = [rows[label, metric] for label in ("p", "q", "r") if rows[label, metric].value is not None]
        macro = rows["macro", metric]
        assert macro.value == pytest.approx(np.mean([row.value for row in told]), abs=1e-4), metric
        assert macro.ci_low < macro.ci_high and len(told) == 3 - METRICS[metric].tells_events
        assert ("without r" in macro.note) == METRICS[metric].tells_events


def test_macro_names_the_labels_it_lacks():
    targets = np.stack([outcomes(60, 20), outcomes(60, 1)], axis=1)
    rows, _, _ = judge(targets, labels=["p", "q"])
    assert rows["q", "auroc"].value is None
    assert rows["macro", "auroc"].value == rows["p", "auroc"].value
    assert rows["macro", "auroc"].note == "mean of 1 of 2 labels, without q"


@pytest.mark.parametrize("n", [0, 1, 9])
def test_a_small_cohort_releases_nothing(n):
    rows, curves, _ = judge(np.stack([np.arange(n) % 2] * 2, axis=1), labels=["p", "q"])
    assert len(rows) == 3 * len(metrics_of("binary"))  # two labels and their mean
    for row in rows.values():
        assert (row.value, row.ci_low, row.ci_high, row.n, row.events) == (None,) * 5
        assert row.note == "suppressed: fewer than 10 patients"
    assert curves == []


def test_patients_count_not_samples():
    rows, curves, _ = judge(outcomes(90, 45), patients=np.arange(90) % 9)
    assert rows["", "auroc"].note == "suppressed: fewer than 10 patients"
    rows, curves, _ = judge(outcomes(90, 45), patients=np.repeat([0, *range(1, 46)], [45, *[1] * 45]))
    assert rows["", "auroc"].note.startswith("not defined")  # one patient has all the events
    assert curves == []


@pytest.mark.parametrize("events", [0, 1, 59, 60])
def test_without_two_of_each_nothing_is_defined(events):
    rows, curves, _ = judge(outcomes(60, events))
    row = rows["", "brier"]
    assert (row.value, row.events) == (None, None)
    assert row.note == "not defined: fewer than 2 patients with, or without, the event"
    assert row.n == 60
    assert curves == []


@pytest.mark.parametrize(("events", "shown"), [(9, None), (10, 10), (50, 50), (51, None)])
def test_small_cells_of_events_and_of_their_complement_are_withheld(events, shown):
    rows, curves, _ = judge(outcomes(60, events))
    assert rows["", "auroc"].value is not None
    assert rows["", "auroc"].events == shown
    assert ("events withheld" in rows["", "auroc"].note) == (shown is None)
    assert bool(curves) == (shown is not None)


@pytest.mark.parametrize(("n", "drawn"), [(39, 0), (40, 5), (49, 5)])  # 49: PTB-XL's site 3
def test_curves_need_forty_patients(n, drawn):
    assert len(judge(outcomes(n, 15))[1]) == drawn


def test_unknown_targets_are_left_out():
    mask = np.ones((80, 1), bool)
    mask[:30] = False
    rows, _, _ = judge(outcomes(80, 50), mask=mask)
    assert (rows["", "auroc"].n, rows["", "auroc"].events) == (50, 20)


def test_rare_events_leave_resamples_out_and_say_so():
    rows, _, _ = judge(outcomes(60, 2))
    assert "of resamples were left out: not defined on them" in rows["", "auroc"].note
    assert "resamples" not in rows["", "brier"].note


def test_scores_that_are_not_finite_are_reported():
    scores = np.full((60, 1), np.nan)
    rows, curves, _ = judge(outcomes(60, 20), scores=scores)
    assert rows["", "auroc"].note == "not defined: scores are not finite"
    assert curves == []


def test_shapes_must_fit():
    with pytest.raises(ValueError, match="expected \\(\\(60, 1\\)"):
        judge(outcomes(60, 20), scores=np.zeros((60, 2)))
