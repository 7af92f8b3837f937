"""Similar patients: Wilson's interval, which groups count, how hospitals that differ widen it."""

from __future__ import annotations

import math

import pytest
from scipy.optimize import brentq
from scipy.stats import chi2_contingency

from fl_client.bedside.similar import Group, similar, spread_of, wilson
from fl_shared.results import Curve

MEMBERS = {"all": frozenset({"ecg", "ehr"}), "ecg": frozenset({"ecg"})}


def curve(site: str = "a", modalities: str = "all", **changes) -> Curve:
    body = {
        "site": site, "task": "death", "label": "", "modalities": modalities, "kind": "risks", "x": (0.1, 0.3, 0.7),
        "y": (0.0, 0.25, 0.8), "counts": (10, 20, 30),
    }  # fmt: skip
    return Curve.model_validate(body | changes)


def ask(curves, risk, *, inputs=(("ecg", "ehr"),), model="federated", **changes):
    wanted = {"task": "death", "label": "", "day": None} | changes
    return similar(curves, risk, model=model, inputs=inputs, members=MEMBERS, **wanted)


@pytest.mark.parametrize(("events", "n"), [(0, 10), (3, 10), (10, 10), (1, 2), (37, 400)])
def test_wilson_is_where_the_score_test_turns(events, n):
    """Its ends are the shares p at which (observed - p) / sqrt(p (1 - p) / n) is 1.96."""

    def score(p):
        return n * (events / n - p) ** 2 - 3.8414588206941254 * p * (1 - p)

    low, high = wilson(events / n, n)
    expected = (
        0.0 if events == 0 else brentq(score, 1e-12, events / n - 1e-9),
        1.0 if events == n else brentq(score, events / n + 1e-9, 1 - 1e-12),
    )
    assert (low, high) == pytest.approx(expected, abs=1e-9)


def test_wilson_of_nobody_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        wilson(0.5, 0)


def test_the_nearest_group_of_each_hospital_counts_and_all_are_summed():
    found = ask([curve("a"), curve("b", y=(0.1, 0.4, 0.9))], 0.35)
    assert found is not None
    assert [(g.sites, g.predicted, g.patients) for g in found.groups] == [(("a",), 0.3, 20), (("b",), 0.3, 20)]
    assert (found.together.share, found.together.patients) == (pytest.approx(13 / 40), 40)
    assert (found.together.low, found.together.high) == pytest.approx(wilson(13 / 40, 40 / found.spread))


def test_hospitals_that_differ_widen_the_interval_by_pearsons_chi_square():
    counts = [(2, 20), (9, 20), (19, 30)]
    groups = [Group(sites=("x",), predicted=0.3, share=e / n, low=0, high=1, patients=n, weight=n) for e, n in counts]
    chi_square = chi2_contingency([[e, n - e] for e, n in counts], correction=False).statistic
    assert spread_of(groups) == pytest.approx(chi_square / 2)
    assert spread_of(groups[:1]) == 1.0 and spread_of([groups[0], groups[0]]) == 1.0


def test_a_group_of_unlike_odds_does_not_count():
    """Of odds 0.3 / 0.7 the double is a risk of 0.46."""
    found = ask([curve("a"), curve("b", x=(0.1, 0.5, 0.7))], 0.3)
    assert found is not None and (found.together.sites, found.unlike) == (("a",), ("b",))
    assert ask([curve("a")], 0.97) is None


def test_withheld_groups_are_passed_over():
    found = ask([curve("a", counts=(10, None, 30), x=(0.2, 0.3, 0.7))], 0.3)
    assert found is not None and found.together.predicted == 0.2
    assert ask([curve("a", counts=(None, None, None))], 0.3) is None


def test_the_patients_own_inputs_go_before_all():
    curves = [curve("a"), curve("a", "ecg", y=(0.5, 0.5, 0.5))]
    found = ask(curves, 0.3, inputs=(("ecg",), ("ecg", "ehr")))
    assert found is not None and (found.inputs, found.together.share) == (("ecg",), 0.5)
    found = ask(curves[:1], 0.3, inputs=(("ecg",), ("ecg", "ehr")))
    assert found is not None and found.inputs == ("ecg", "ehr")


@pytest.mark.parametrize(
    "asked", [{"task": "other"}, {"label": "x"}, {"model": "recalibrated"}, {"inputs": (("ehr",),)}]
)
def test_nothing_is_invented(asked):
    assert ask([curve("a")], 0.3, **asked) is None
    assert ask([curve("a", kind="calibration", counts=())], 0.3) is None


def test_a_curve_of_another_day_is_not_taken():
    assert ask([curve("a", day=30.0)], 0.3, day=90.0) is None
    assert ask([curve("a", day=90.0)], 0.3, day=90.0) is not None


def test_risks_that_are_told_as_0_or_1_are_finite():
    found = ask([curve("a", x=(0.0, 0.5, 1.0))], 1e-9)
    assert found is not None and math.isfinite(found.together.high) and found.together.predicted == 0.0
