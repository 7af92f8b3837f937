"""Curves of groups by predicted risk: values by their definitions, and what no two of them tell together."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, roc_auc_score

from fl_shared.metrics.curves import curve_fits
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.risk_groups import MOST, RiskGroups
from fl_shared.results import Curve
from fl_shared.study import TaskPlan

BINARY = TaskPlan(type="binary")


def sample(n, *, seed=0, level=-1.0, spread=1.5):
    rng = np.random.default_rng(seed)
    p = 1 / (1 + np.exp(-rng.normal(level, spread, n)))
    return p, (rng.random(n) < p).astype(float)


def told(p, y, *, patients=None, plan=BINARY, min_patients=10):
    _, curves = evaluate_predictions(
        site="a", role="external", task="t", plan=plan, modalities="all", model="m", predictions=p[:, None],
        targets=y[:, None], mask=np.ones((len(p), 1), bool), bootstrap=2, seed=0, min_patients=min_patients,
        patients=np.arange(len(p)) if patients is None else patients,
    )  # fmt: skip
    assert all(curve_fits(curve, plan) for curve in curves)
    return {curve.kind: curve for curve in curves}


def net_benefit(p, y, t):
    """Of those called at a threshold, from a table of four cells."""
    (_, false), (_, true) = confusion_matrix(y, p >= t, labels=[0, 1])
    return true / len(y) - false / len(y) * t / (1 - t)


@pytest.mark.parametrize(("n", "level", "least"), [(45, -1.0, 3), (400, -1.0, 25), (3000, -3.5, 30), (20_000, 0.0, 45)])
def test_net_benefit_at_each_told_threshold(n, level, least):
    """Of the rule that calls everybody from the told threshold on, within the roundings of both."""
    p, y = sample(n, level=level, seed=n)
    curve = told(p, y)["decision"]
    assert len(curve.x) >= least
    assert list(curve.y) == pytest.approx([net_benefit(p, y, t) for t in curve.x], abs=2e-3 + 1.5 / n)  # a sample


def test_net_benefit_between_risks_that_lie_apart_is_exact():
    p, y = np.repeat([0.113, 0.2, 0.3141, 0.3144], 20), np.tile([0.0, 1.0, 1.0, 0.0, 0.0], 16)
    groups = RiskGroups.of(p, y, np.arange(80), few=10)
    x, found = groups.decision()
    assert x.tolist() == [0.16, 0.26, 0.314]  # hundredths where there are any; no thousandth lies between the last two
    expected = [net_benefit(p, y, t) for t in (0.16, 0.26)] + [
        y[60:].sum() / 80 - (20 - y[60:].sum()) / 80 * 0.314 / 0.686
    ]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)
    assert groups.patients.tolist() == [20, 20, 20, 20]


def test_moved_intercepts_leave_the_groups_as_they_are():
    """What a recalibrated model tells of the same patients cuts them at no other place."""
    p, y = sample(700, seed=6)
    moved = 1 / (1 + (1 - p) / p * np.exp(-0.8))
    one, other = (RiskGroups.of(each, y, np.arange(700), few=10) for each in (p, moved))
    np.testing.assert_array_equal(one.group, other.group)
    assert (other.risks()[0] > one.risks()[0]).all()
    assert len(one.decision()[0]) >= 30 and len(other.decision()[0]) >= 30


def test_groups_by_risk_and_the_auroc_that_they_keep():
    p, y = sample(2000, seed=3)
    curve = told(p, y)["risks"]
    assert 30 <= len(curve.x) <= MOST and sum(curve.counts) == 2000 and min(curve.counts) >= 40
    assert np.dot(curve.x, curve.counts) / 2000 == pytest.approx(p.mean(), abs=1e-3)
    events = np.array(curve.y) * curve.counts
    assert events.sum() == pytest.approx(y.sum(), abs=2.0)
    others = np.array(curve.counts) - events
    ahead = (events * (np.cumsum(others) - others / 2)).sum() / (events.sum() * others.sum())
    assert ahead == pytest.approx(roc_auc_score(y, p), abs=2e-3)


@pytest.mark.parametrize("n", [9, 10, 40, 60, 333, 2500])
@pytest.mark.parametrize("level", [-4.0, 0.0])
@pytest.mark.parametrize("repeated", [1, 3])
def test_every_cell_that_the_curves_tell_holds_ten_patients(n, level, repeated):
    """The borders of all curves of groups together cut the risks into cells: each has 10 patients or more."""
    p, y = sample(n * repeated, level=level, seed=n)
    patients = np.random.default_rng(1).permutation(np.arange(n * repeated) % n)
    groups = RiskGroups.of(p, y, patients, few=10)
    assert bool(len(groups.patients)) == (n >= 10)
    if n < 10:
        assert [len(part) for part in (*groups.risks(), *groups.calibration(), *groups.decision())] == [0] * 6
        return
    borders = set()
    for number in range(len(groups.patients)):
        inside = groups.group == number
        assert len(np.unique(patients[inside])) == groups.patients[number] >= 10
        borders.add(float(p[inside].min()))
        assert number == 0 or p[inside].min() > p[groups.group == number - 1].max()
    x, benefits = groups.decision()  # as many called as there are in whole groups
    events, sizes = (
        np.array([each[groups.group >= k].sum() for k in range(len(borders))]) for each in (y, np.ones(len(p)))
    )
    for t, benefit in zip(x, benefits, strict=True):
        assert np.abs((events - (sizes - events) * t / (1 - t)) / len(p) - benefit).min() < 1e-12
    points = groups.calibration()[0]
    assert 1 <= len(points) <= 10
    ends = np.cumsum(groups.patients)
    if repeated == 1:  # a point of calibration is a sum of groups
        x, risks = points, groups.risks()[0]
        at = 0
        for point in x:
            size, total = 0, 0.0
            while size == 0 or total / size < point - 1e-9:
                size, total, at = size + groups.patients[at], total + risks[at] * groups.patients[at], at + 1
            assert total / size == pytest.approx(point, abs=1e-9)
        assert at == len(ends)


def test_one_risk_for_all_has_no_net_benefit_to_tell():
    curves = told(np.full(60, 0.3), np.tile([0.0, 1.0, 0.0], 20))
    assert "decision" not in curves
    assert curves["risks"].counts == (60,) and curves["risks"].x == (0.3,)


def test_min_patients_of_a_site_holds_for_groups_too():
    p, y = sample(300, seed=2)
    assert min(told(p, y, min_patients=25)["risks"].counts) >= 25


def curve(**changes):
    body = {"site": "a", "task": "t", "label": "", "modalities": "all"}
    return Curve.model_validate(body | changes)


RISKS = {"kind": "risks", "x": (0.1, 0.4), "y": (0.0, 0.5), "counts": (10, 40)}
DECISION = {"kind": "decision", "x": (0.1, 0.5), "y": (0.2, -0.9)}


@pytest.mark.parametrize(
    "bad",
    [
        RISKS | {"counts": (9, 40)},
        RISKS | {"counts": (None, 40)},
        RISKS | {"counts": (10,)},
        RISKS | {"counts": ()},
        RISKS | {"x": (0.4, 0.1)},
        RISKS | {"group": "low"},
        RISKS | {"x": tuple(np.linspace(0, 1, 51)), "y": (0.5,) * 51, "counts": (10,) * 51},
        DECISION | {"x": (0.0, 0.5)},
        DECISION | {"x": (0.1, 1.0)},
        DECISION | {"x": (0.5, 0.1)},
        DECISION | {"x": (0.1, 0.1)},
        DECISION | {"y": (0.2, -1.1)},  # below that of calling everybody when nobody has the event
        DECISION | {"y": (1.1, 0.0)},
        DECISION | {"counts": (10, 10)},
        DECISION | {"label": "mi"},
        DECISION | {"day": 3.0},
        {"kind": "roc", "x": (0.0, 1.0), "y": (0.0, 1.0), "counts": (10, 10)},
    ],
)
def test_curves_that_do_not_fit(bad):
    assert curve_fits(curve(**RISKS), BINARY) and curve_fits(curve(**DECISION), BINARY)
    assert not curve_fits(curve(**bad), BINARY)
    assert not curve_fits(curve(**RISKS), TaskPlan(type="regression"))
