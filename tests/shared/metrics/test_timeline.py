"""The risk timeline: interpolation, bands at their limits, Aalen-Johansen against a loop, and what small bands hide."""

from __future__ import annotations

import numpy as np
import pytest

from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.timeline import HIGH, LOW, MIDDLE, Course, bands_of, risk_at
from fl_shared.study import TaskPlan

LIMITS = (0.1, 0.3)
WINDOWS = (60.0, 90.0)
SURVIVAL = TaskPlan(type="survival", horizon=100.0, bins=4, windows=WINDOWS, bands=LIMITS)
COMPETING = TaskPlan(
    type="competing", labels=("cardiac", "other"), horizon=100.0, bins=4, windows=WINDOWS, bands=LIMITS
)


def loop(time, cause, *, day, of):
    """Cumulative incidence, one patient's time after the other in plain floats."""
    free, found = 1.0, 0.0
    for t in sorted({float(t) for t, c in zip(time, cause, strict=True) if c > 0 and t <= day}):
        at_risk = sum(u >= t for u in time)
        now = [c for u, c in zip(time, cause, strict=True) if u == t and c > 0]
        found += free * sum(c == of for c in now) / at_risk
        free *= 1.0 - len(now) / at_risk
    return found


def drawn(n, *, seed, causes=1):
    """Risks (n, 4, causes) by four edges that rise, and times in whole days (events and censorings coincide)."""
    rng = np.random.default_rng(seed)
    level = rng.beta(0.7, 1.2, (n, causes)) / causes
    risk = level[:, None] * np.array([0.5, 0.7, 0.9, 1.0])[:, None]
    cause = np.where(rng.random(n) < 1.4 * level.sum(1), rng.integers(1, causes + 1, n), 0)
    time = np.ceil(np.where(cause > 0, rng.uniform(0, 110, n), rng.uniform(20, 400, n)))
    return risk, time, cause


def told(plan, risk, time, cause, *, min_patients=10, patients=None):
    shaped = risk[..., 0] if plan.type == "survival" else risk
    rows, curves = evaluate_predictions(
        site="a", role="external", task="t", plan=plan, modalities="all", model="m", predictions=shaped,
        targets=np.stack([time, cause], axis=1).astype(float), mask=np.ones((len(time), 2), bool),
        patients=np.arange(len(time)) if patients is None else patients, bootstrap=20, seed=0,
        min_patients=min_patients,
    )  # fmt: skip
    assert all(curve.kind in ("bands", "incidence") for curve in curves)
    return rows, {(curve.label, curve.day): curve for curve in curves if curve.kind == "bands"}


def test_risk_between_edges() -> None:
    risk = np.array([[0.1, 0.2, 0.6], [0.0, 0.0, 0.3]])
    found = risk_at(risk, edges=(10, 20, 40), days=(0, 5, 10, 15, 30, 40))
    np.testing.assert_allclose(found, [[0, 0.05, 0.1, 0.15, 0.4, 0.6], [0, 0, 0, 0, 0.15, 0.3]], atol=1e-12)


def test_risk_equals_numpys_interpolation() -> None:
    rng = np.random.default_rng(0)
    edges = np.cumsum(rng.uniform(1, 30, 12))
    risk = rng.dirichlet(np.ones(25), size=40)[:, :24].reshape(40, 12, 2).cumsum(1)
    days = np.sort(rng.uniform(0, edges[-1], 7))
    found = risk_at(risk, edges=tuple(edges), days=tuple(days))
    for n in range(40):
        for cause in range(2):
            curve = np.interp(days, [0, *edges], [0, *risk[n, :, cause]])
            np.testing.assert_allclose(found[n, :, cause], curve, atol=1e-12)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \(N, 3, …\)"):
        risk_at(np.ones((2, 4)), edges=(1, 2, 3), days=(1,))
    for day in (-1, 3.1, np.nan):
        with pytest.raises(ValueError, match="between 0 and 3"):
            risk_at(np.ones((2, 3)), edges=(1, 2, 3), days=(day,))


def test_bands_at_their_limits() -> None:
    risk = np.array([0.0, 0.0999, 0.1, 0.2, 0.3, 0.3001, 1.0])
    assert bands_of(risk, limits=LIMITS).tolist() == [LOW, LOW, MIDDLE, MIDDLE, MIDDLE, HIGH, HIGH]
    with pytest.raises(ValueError, match="finite"):
        bands_of(np.array([0.1, np.nan]), limits=LIMITS)


@pytest.mark.parametrize("causes", [1, 2, 3])
def test_incidence_equals_a_loop(causes) -> None:
    for seed in range(5):
        _, time, cause = drawn(80, seed=seed, causes=causes)
        course = Course(time=time, cause=cause, patients=np.arange(80))
        for day in (0.0, 1.0, 37.0, 90.0, 500.0):
            for of in range(1, causes + 1):
                assert course.incidence(day, of=of) == pytest.approx(loop(time, cause, day=day, of=of), abs=1e-12)


def test_incidence_of_known_courses() -> None:
    """Without censoring a share; with it Kaplan-Meier by hand: 1 - 4/5 * 2/3; a competing death is no censoring."""
    everybody = Course(time=np.array([1.0, 2, 3, 4]), cause=np.array([1, 2, 1, 2]), patients=np.arange(4))
    assert [everybody.incidence(day) for day in (0.5, 1, 2.5, 3, 9)] == pytest.approx([0, 0.25, 0.25, 0.5, 0.5])
    some = Course(time=np.array([1.0, 2, 3, 3, 4]), cause=np.array([1, 0, 1, 0, 0]), patients=np.arange(5))
    assert some.incidence(3) == pytest.approx(1 - 4 / 5 * 2 / 3)
    np.testing.assert_array_equal(some.outcome(3), [1, np.nan, 1, 0, 0])
    np.testing.assert_array_equal(everybody.outcome(3, of=1), [1, 0, 1, 0])


@pytest.mark.parametrize("plan", [SURVIVAL, COMPETING], ids=["survival", "competing"])
def test_each_window_tells_its_bands(plan) -> None:
    causes = max(1, len(plan.labels))
    risk, time, cause = drawn(900, seed=3, causes=causes)
    _, curves = told(plan, risk, time, cause)
    labels = plan.labels or ("",)
    where = {(label or f"{day:g}d", day) for label in labels for day in WINDOWS}
    assert set(curves) == where
    for number, label in enumerate(labels):
        for day in WINDOWS:
            curve = curves[label or f"{day:g}d", day]
            by_day = np.array([np.interp(day, [0, *plan.edges], [0, *row[:, number]]) for row in risk])
            for band, inside in enumerate((by_day < 0.1, (by_day >= 0.1) & (by_day <= 0.3), by_day > 0.3)):
                assert inside.sum() >= 10
                assert curve.x[band] == pytest.approx(by_day[inside].mean(), abs=6e-4)
                observed = loop(time[inside], cause[inside], day=day, of=number + 1)
                assert curve.y[band] == pytest.approx(observed, abs=6e-4)


def test_a_small_band_is_told_with_its_neighbour() -> None:
    """Ten patients are enough, nine are not; those whose outcome is not known by then do not count."""
    risk = np.repeat([0.05, 0.2, 0.6], [40, 9, 40])
    time, cause = np.full(89, 200.0), np.zeros(89, dtype=int)
    time[::3], cause[::3] = 20.0, 1
    course = Course(time=time, cause=cause, patients=np.arange(89))
    x, y = course.bands(risk, day=30.0, limits=LIMITS, min_patients=10)
    assert x[0] == pytest.approx(0.05) and y[0] == pytest.approx(cause[:40].mean())
    assert x[1] == x[2] == pytest.approx(risk[40:].mean()) and y[1] == y[2] == pytest.approx(cause[40:].mean())
    x, _ = course.bands(risk, day=30.0, limits=LIMITS, min_patients=9)
    assert x.tolist() == pytest.approx([0.05, 0.2, 0.6])
    last = Course(time=time, cause=cause, patients=np.where(risk > 0.3, 7, np.arange(89)))  # one patient's samples
    x, _ = last.bands(risk, day=30.0, limits=LIMITS, min_patients=9)
    assert x[0] == pytest.approx(0.05) and x[1] == x[2]
    early = Course(time=np.where(risk > 0.3, 10.0, 200.0), cause=np.zeros(89, dtype=int), patients=np.arange(89))
    x, _ = early.bands(risk, day=30.0, limits=LIMITS, min_patients=9)
    assert x[1] == x[2] != x[0]
    assert [len(part) for part in course.bands(risk, day=30.0, limits=LIMITS, min_patients=90)] == [0, 0]


@pytest.mark.parametrize("plan", [SURVIVAL, COMPETING], ids=["survival", "competing"])
def test_windows_that_would_tell_few_events_in_between_are_withheld(plan) -> None:
    """Of 200 patients nine have the event between the windows: the same people at both tell them by subtraction."""
    causes = max(1, len(plan.labels))
    risk = np.full((200, 4, causes), 0.2)
    for few, days in ((9, set()), (10, set(WINDOWS))):
        time, cause = np.full(200, 300.0), np.zeros(200, dtype=int)
        for c in range(causes):
            at = 80 * c
            time[at : at + 40 + few] = [20.0] * 20 + [95.0] * 20 + [75.0] * few
            cause[at : at + 40 + few] = 1 + c
        _, curves = told(plan, risk, time, cause)
        assert {day for _, day in curves} == days


def test_few_patients_or_events_have_no_timeline() -> None:
    risk, time, cause = drawn(300, seed=0)
    assert told(SURVIVAL, risk[:39], time[:39], cause[:39])[1] == {}
    assert told(SURVIVAL, risk, time, cause, patients=np.arange(300) % 39)[1] == {}
    rare = cause * (np.cumsum(cause) < 10)
    assert told(SURVIVAL, risk, time, rare)[1] == {}
    broken = risk.copy()
    broken[7] = np.nan
    assert told(SURVIVAL, broken, time, cause)[1] == {}


def test_cox_ranks_and_tells_no_risk() -> None:
    risk, time, cause = drawn(300, seed=0)
    plan = TaskPlan(type="survival", survival_model="cox", horizon=100.0, windows=WINDOWS)
    rows, curves = told(plan, risk[:, -1:] * 5 - 3, time, cause)
    assert curves == {} and all(row.value is not None for row in rows)
