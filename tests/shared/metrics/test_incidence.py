"""Courses by risk group: Kaplan-Meier and Aalen-Johansen, and that nothing told stands for fewer than 10 patients."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from sksurv.nonparametric import cumulative_incidence_competing_risks, kaplan_meier_estimator

from fl_shared.metrics.curves import curve_fits
from fl_shared.metrics.evaluate import evaluate_predictions
from fl_shared.metrics.incidence import courses, days_of, group_names
from fl_shared.metrics.timeline import Course
from fl_shared.results import Curve
from fl_shared.study import TaskPlan

WINDOWS = (33.0, 60.0)
SURVIVAL = TaskPlan(type="survival", horizon=100.0, bins=4, windows=WINDOWS)
COMPETING = TaskPlan(type="competing", labels=("cardiac", "other"), horizon=100.0, bins=4, windows=WINDOWS)


def drawn(n, *, seed=0, causes=1, follow=300.0, scale=100.0):
    """Risks by the horizon, and whole days until an event or a censoring; follow-up ends at the horizon."""
    rng = np.random.default_rng(seed)
    risk = rng.beta(0.9, 2.0, n)
    time, censored = rng.exponential(scale * (1.2 - risk)), rng.exponential(follow, n)
    cause = np.where(time <= censored, rng.integers(1, causes + 1, n), 0)
    seen = np.ceil(np.minimum(time, censored))
    cause[seen > 100] = 0
    return risk, np.minimum(seen, 100.0), cause


BAND = {"low": 0, "middle": 1, "high": 2}


def members(risk, group):
    band = (risk >= 0.1).astype(int) + (risk > 0.3)
    return np.isin(band, [BAND[name] for name in group.split("+")])


@pytest.mark.parametrize("seed", range(3))
def test_one_cause_is_kaplan_meier_by_day(seed):
    risk, time, cause = drawn(900, seed=seed)
    found = courses(Course(time=time, cause=cause, patients=np.arange(900)), risk, SURVIVAL, few=10)
    assert [each.group for each in found] == ["low", "middle", "high"]
    for each in found:
        inside = members(risk, each.group)
        times, free = kaplan_meier_estimator(cause[inside] == 1, time[inside])
        steps = np.concatenate([[1.0], free])[np.searchsorted(times, each.days, side="right")]
        np.testing.assert_allclose(each.shares, 1 - steps, atol=1e-12)
        assert (each.days[0], each.days[-1], each.at_risk[0]) == (0.0, 100.0, inside.sum())


def test_several_causes_are_aalen_johansen_by_day():
    risk, time, cause = drawn(1200, seed=4, causes=2)
    for number in (1, 2):
        course = Course(time=time, cause=cause, patients=np.arange(1200))
        for each in courses(course, risk, COMPETING, few=10, of=number):
            inside = members(risk, each.group)
            times, incidence = cumulative_incidence_competing_risks(cause[inside], time[inside])
            steps = np.concatenate([[0.0], incidence[number]])[np.searchsorted(times, each.days, side="right")]
            np.testing.assert_allclose(each.shares, steps, atol=1e-12)


@pytest.mark.parametrize("n", [60, 150, 400, 2000])
@pytest.mark.parametrize("follow", [1e9, 300.0, 40.0])
@pytest.mark.parametrize("causes", [1, 2])
@pytest.mark.parametrize("repeated", [False, True])
def test_no_step_stands_for_fewer_than_ten_patients(n, follow, causes, repeated):
    """Everything that can be subtracted, counted over again: between days, between groups, and from what is told
    elsewhere (events of all by the days of the plan)."""
    plan = SURVIVAL if causes == 1 else COMPETING
    told_days = 0
    for seed in range(4):
        risk, time, cause = drawn(n, seed=seed, causes=causes, follow=follow)
        patients = np.random.default_rng(seed).integers(0, 2 * n // 3, n) if repeated else np.arange(n)
        found = courses(Course(time=time, cause=cause, patients=patients), risk, plan, few=10)
        told_days += sum(len(each.days) - 2 for each in found)

        def people(*conditions, patients=patients):
            return len(np.unique(patients[np.logical_and.reduce(conditions)]))

        with_it = {}
        for each in found:
            inside = members(risk, each.group)
            mine = inside & (cause == 1)
            assert people(mine) >= 10 and people(inside) - people(mine) >= 10
            for a, b in pairwise(each.days):
                assert people(mine, time > a, time <= b) >= 10, (each.group, a, b)
            last = None
            for day, left in zip(each.days, each.at_risk, strict=True):
                followed = inside & ((time > day) | ((time == day) & (cause == 0)))
                assert left is None or left == people(followed) >= 10
                if left is not None and last is not None:
                    otherwise = last[1] - left - people(mine, time > last[0], time <= day)
                    assert otherwise == 0 or otherwise >= 10
                last = (day, left) if left is not None else last
            with_it[each.group] = {day: people(mine, time <= day) for day in each.days}
            for day in set(each.days) - {0.0, 100.0, *WINDOWS}:  # sums of all groups against each other
                for known in WINDOWS:
                    assert people(cause == 1, time > min(day, known), time <= max(day, known)) >= 10
        assert not found or sorted("+".join(with_it).split("+")) == sorted(BAND)
        for known in WINDOWS:  # all groups or none: one withheld would be the rest of the total
            assert len({known in days for days in with_it.values()}) <= 1
    assert told_days > 0 or n < 400


@pytest.mark.parametrize("n", [150, 400, 1500])
@pytest.mark.parametrize("follow", [1e9, 300.0, 40.0])
def test_sums_of_several_models_and_causes_tell_no_small_step_either(n, follow):
    """Each tells on its own days how many of the same patients had the event, and how many are left."""
    seen = 0
    for seed in range(4):
        _, time, cause = drawn(n, seed=seed, causes=2, follow=follow)
        rng, course = np.random.default_rng(seed), Course(time=time, cause=cause, patients=np.arange(n))
        left = {0.0}
        for of in (1, 2):
            sums = {0.0, 100.0, *WINDOWS}
            for _ in range(5):
                groups = courses(course, rng.beta(0.9, 2.0, n), COMPETING, few=10, of=of)
                for day in set.intersection(*(set(each.days) for each in groups)) if groups else ():
                    sums.add(float(day))
                    told = [dict(zip(each.days, each.at_risk, strict=True))[day] for each in groups]
                    left |= {float(day)} if None not in told else set()
            free = sums - {0.0, 100.0, *WINDOWS}
            for a, b in pairwise(sorted(sums)):
                assert free.isdisjoint({a, b}) or ((cause == of) & (time > a) & (time <= b)).sum() >= 10
            seen += len(free)
        at_risk = [((time > day) | ((time == day) & (cause == 0))).sum() for day in sorted(left - {*WINDOWS, 100.0})]
        assert all(a - b >= 10 for a, b in pairwise(at_risk))
    assert seen > 0 or n < 1500


def test_steps_of_nine_are_coarsened_and_of_ten_are_told():
    """Two groups of 100, events every fifth day by ten: on every day of the grid; by nine: on every other."""
    for many, expected in ((10, 21), (9, 11)):
        day = np.repeat(np.arange(1, 21) * 5.0, many)
        rest = 400 - len(day)
        time, cause = np.append(day, np.full(rest, 100.0)), np.append(np.ones(len(day), int), np.zeros(rest, int))
        plan = SURVIVAL.model_copy(update={"windows": ()})
        (found,) = courses(Course(time=time, cause=cause, patients=np.arange(400)), np.full(400, 0.2), plan, few=10)
        assert len(found.days) == expected
        assert found.group == "low+middle+high" and found.at_risk[0] == 400  # the other bands are empty


def test_a_group_with_few_events_is_told_with_its_neighbour():
    risk = np.repeat([0.05, 0.2, 0.6], 100)
    for few_events, names in ((9, ["low+middle", "high"]), (10, ["low", "middle", "high"])):
        cause = np.zeros(300, int)
        cause[:few_events] = cause[100:130] = cause[200:250] = 1
        course = Course(time=np.where(cause, 40.0, 100.0), cause=cause, patients=np.arange(300))
        assert [each.group for each in courses(course, risk, SURVIVAL, few=10)] == names
    cause[200:295] = 1  # five of the last group are free of it
    course = Course(time=np.where(cause, 40.0, 100.0), cause=cause, patients=np.arange(300))
    assert [each.group for each in courses(course, risk, SURVIVAL, few=10)] == ["low", "middle+high"]
    nobody = Course(time=np.full(300, 100.0), cause=np.zeros(300, int), patients=np.arange(300))
    assert courses(nobody, risk, SURVIVAL, few=10) == []


def test_numbers_at_risk_that_tell_of_few_censored_are_withheld():
    """Nine leave for another reason between day 0 and 50: the number at risk would tell it, the share does not."""
    for lost, numbers in ((9, (300, None, None)), (10, (300, 270, 250)), (0, (300, 280, 260))):
        cause = np.zeros(300, int)
        cause[:40] = 1
        time = np.where(cause, np.repeat([20.0, 80.0, 0.0], [20, 20, 260]), 100.0)
        time[40 : 40 + lost] = 10.0
        plan = SURVIVAL.model_copy(update={"windows": (50.0,)})
        (found,) = courses(Course(time=time, cause=cause, patients=np.arange(300)), np.full(300, 0.2), plan, few=10)
        assert found.days.tolist() == [0.0, 20.0, 100.0] or found.days.tolist() == [0.0, 50.0, 100.0]
        assert found.at_risk == numbers


def test_events_on_the_day_itself_belong_to_the_first_step():
    cause = np.repeat([1, 0], [30, 170])
    time = np.repeat([0.0, 50.0, 100.0], [5, 25, 170])
    (found,) = courses(Course(time=time, cause=cause, patients=np.arange(200)), np.full(200, 0.2), SURVIVAL, few=10)
    assert (found.days[0], found.shares[0], found.at_risk[0]) == (0.0, 0.0, 200)
    assert found.shares[-1] == pytest.approx(0.15) and found.at_risk[-1] == 170
    assert (np.diff(found.shares * 200) > 9.9).all()  # 5 with the 25, never alone


def test_cox_and_few_patients_have_no_courses():
    risk, time, cause = drawn(300)

    def kinds(plan, n, predictions):
        _, curves = evaluate_predictions(
            site="a", role="external", task="t", plan=plan, modalities="all", model="m", predictions=predictions[:n],
            targets=np.stack([time, cause], axis=1)[:n].astype(float), mask=np.ones((n, 2), bool),
            patients=np.arange(n), bootstrap=2, seed=0, min_patients=10,
        )  # fmt: skip
        assert all(curve_fits(curve, plan) for curve in curves)
        return {curve.kind for curve in curves}

    hazard = np.repeat(risk[:, None], 4, axis=1)
    assert "incidence" in kinds(SURVIVAL, 300, hazard)
    assert "incidence" not in kinds(SURVIVAL, 39, hazard)
    assert kinds(SURVIVAL.model_copy(update={"survival_model": "cox"}), 300, hazard[:, :1]) == set()


GOOD = {"kind": "incidence", "group": "low", "x": (0.0, 33.0, 100.0), "y": (0.0, 0.1, 0.2), "counts": (90, None, 40)}


@pytest.mark.parametrize(
    "change",
    [
        {"group": ""},
        {"group": "Zhang"},
        {"group": "low+high"},
        {"x": (0.0, 34.0, 100.0)},  # not a day of the grid
        {"x": (5.0, 33.0, 100.0)},
        {"x": (0.0, 33.0, 95.0)},
        {"x": (0.0, 0.0, 100.0)},
        {"y": (0.0, 0.2, 0.1)},
        {"y": (0.1, 0.2, 0.3)},
        {"y": (0.0, 0.2, 1.1)},
        {"counts": (90, 9, 9)},
        {"counts": (90, 95, 40)},
        {"counts": (90, 40)},
        {"counts": ()},
        {"day": 33.0},
        {"label": "33d"},
    ],
)
def test_courses_that_do_not_fit(change):
    body = {"site": "a", "task": "t", "label": "", "modalities": "all"} | GOOD
    assert curve_fits(Curve.model_validate(body), SURVIVAL)
    assert not curve_fits(Curve.model_validate(body | change), SURVIVAL)
    assert not curve_fits(Curve.model_validate(body), COMPETING)
    assert curve_fits(Curve.model_validate(body | {"label": "other"}), COMPETING)
    assert not curve_fits(Curve.model_validate(body), SURVIVAL.model_copy(update={"survival_model": "cox"}))
    assert not curve_fits(Curve.model_validate(body), TaskPlan(type="binary"))


def test_days_and_names():
    assert days_of(SURVIVAL) == tuple(sorted({*(5.0 * k for k in range(21)), *WINDOWS}))
    assert set(group_names()) == {"low", "middle", "high", "low+middle", "middle+high", "low+middle+high"}
