"""Calibration in the large, slope and expected error: values against other libraries, intervals against refits."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fl_shared.metrics.calibration import Calibration
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.table import METRICS, metrics_of
from fl_shared.study import TaskPlan

TELL_EVENTS = tuple(name for name in metrics_of("binary") if METRICS[name].tells_events)


def cohort(n: int, *, seed: int = 0, slope: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Predicted risks and outcomes; the truth lies on ``slope`` times the predicted logit."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1, 1.5, n)
    y = (rng.random(n) < 1 / (1 + np.exp(-slope * logits))).astype(float)
    return 1 / (1 + np.exp(-logits)), y


def refit(p: np.ndarray, y: np.ndarray) -> float:
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    return float(model.fit(np.log(p / (1 - p))[:, None], y).coef_[0, 0])


def test_values_are_those_of_the_definitions() -> None:
    p, y = cohort(500)
    found = Calibration.of(p, y, np.arange(500), cohort=500).metrics(np.ones((1, 500), dtype=np.int64))
    assert found["expected_observed"][0] == pytest.approx(p.sum() / y.sum())
    assert found["calibration_slope"][0] == pytest.approx(refit(p, y), abs=1e-5)
    order = np.argsort(p)
    ece = sum(abs(p[part].sum() - y[part].sum()) for part in np.array_split(order, 10)) / 500
    assert found["ece"][0] == pytest.approx(ece)


def test_resamples_weigh_patients() -> None:
    p, y = cohort(300, seed=1)
    patients = np.repeat(np.arange(150), 2)
    weights = np.random.default_rng(0).multinomial(150, np.full(150, 1 / 150), size=3)
    found = Calibration.of(p, y, patients, cohort=150).metrics(weights)
    for row, weight in enumerate(weights):
        w = weight[patients]
        assert found["expected_observed"][row] == pytest.approx((w * p).sum() / (w * y).sum())


def test_every_resample_is_refitted() -> None:
    p, y = cohort(600, seed=2, slope=0.7)
    weights = np.random.default_rng(1).multinomial(600, np.full(600, 1 / 600), size=60)
    quick = Calibration.of(p, y, np.arange(600), cohort=600).metrics(weights)["calibration_slope"]
    whole = [refit(np.repeat(p, w), np.repeat(y, w)) for w in weights]
    np.testing.assert_allclose(quick, whole, atol=1e-5)  # scikit-learn's own tolerance


@pytest.mark.parametrize(
    ("logits", "targets"),
    [([0.5] * 6, [0, 1, 0, 1, 1, 0]), ([-2, -1, 1, 2], [0, 0, 1, 1]), ([-1.0, 0, 1], [0, 0, 0])],
    ids=["equal", "separated", "without events"],
)
def test_where_no_slope_exists_none_is_told(logits: list[float], targets: list[float]) -> None:
    p, y = 1 / (1 + np.exp(-np.array(logits, float))), np.array(targets, float)
    found = Calibration.of(p, y, np.arange(len(y)), cohort=len(y)).metrics(np.ones((1, len(y)), dtype=np.int64))
    assert np.isnan(found["calibration_slope"]).all()


def judged(p: np.ndarray, y: np.ndarray) -> dict:
    rows, _ = evaluate_predictions(
        site="a", role="external", task="t", plan=TaskPlan(type="binary"), modalities="all", model="m",
        predictions=p[:, None], targets=y[:, None], mask=np.ones((len(y), 1), bool), patients=np.arange(len(y)),
        bootstrap=300, seed=0, min_patients=10,
    )  # fmt: skip
    return {row.metric: row for row in rows}


def test_rows_hold_each_value_within_its_interval() -> None:
    rows = judged(*cohort(400, seed=3))
    for metric in TELL_EVENTS:
        row = rows[metric]
        assert row.ci_low < row.value < row.ci_high, metric
    assert rows["ece"].ci_low >= 0


def test_what_tells_the_number_of_events_is_withheld_with_it() -> None:
    p, y = cohort(60, seed=4)
    y[:] = 0
    y[np.argsort(-p)[:6]] = 1
    rows = judged(p, y)
    assert rows["auroc"].value is not None and rows["auroc"].events is None
    for metric in TELL_EVENTS:
        assert rows[metric].value is None
        assert rows[metric].note == "events withheld: fewer than 10 patients with, or without, the event"
