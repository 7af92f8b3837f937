"""Differences over sites, over seeds and over variants, against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from fl_server.comparison.contrasts import combined, contrasts, holm, of_pair
from fl_server.comparison.numbers import Told, What
from fl_shared.results import Difference

Z = 1.959963984540054
WHERE = What("external", "", "death", "", "all", "", "auroc")


def told(value: float, error: float) -> Told:
    return Told(value, value - Z * error, value + Z * error)


def test_holm_by_hand() -> None:
    """.005 x 4, .01 x 3, .03 x 2; .04 x 1 may not fall below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == [] and holm([0.2]) == [0.2]


def test_seeds_by_hand() -> None:
    """Variances .0004, .0009, .0016 have the mean .00096667; the values have .0016, their mean a third."""
    found = combined([told(0.10, 0.02), told(0.14, 0.03), told(0.06, 0.04)])
    error = math.sqrt(0.0029 / 3 + 0.0016 / 3)
    assert found is not None and error == pytest.approx(0.0387298, abs=1e-7)
    assert (found.value, found.low, found.high) == pytest.approx((0.10, 0.10 - Z * error, 0.10 + Z * error))
    assert found.p == pytest.approx(math.erfc(0.10 / error / math.sqrt(2)))


def test_more_seeds_do_not_make_patients_more() -> None:
    one, many = (combined([told(0.05, 0.02)] * n) for n in (1, 50))
    assert one is not None and many is not None
    assert (one.low, one.high, one.p) == pytest.approx((many.low, many.high, many.p))
    assert (one.low, one.high) == pytest.approx((0.05 - Z * 0.02, 0.05 + Z * 0.02))


def test_models_that_say_the_same_differ_by_nothing() -> None:
    same = combined([Told(0.0, 0.0, 0.0)])
    assert same is not None and same.p == 1.0
    assert combined([Told(None, None, None, "too few")]) is None
    sure = combined([told(0.5, 1e-3)])
    assert sure is not None and sure.p == 1e-4  # no test knows its tail better


def test_variants_of_a_mode_are_a_family() -> None:
    found = {
        ("a", "federated"): [{WHERE: told(0.02, 0.01)}],
        ("b", "federated"): [{WHERE: told(0.03, 0.01)}],
        ("a", "pooled"): [{WHERE: told(0.02, 0.01)}],
        ("c", "federated"): [{WHERE: Told(None, None, None, "withheld")}],
    }
    rows = {(row.variant, row.mode): row for row in contrasts(found, against="plain")}
    p = {z: math.erfc(z / math.sqrt(2)) for z in (2, 3)}
    assert rows["a", "federated"].p_holm == pytest.approx(p[2], abs=1e-4)  # two tests, the larger p
    assert rows["b", "federated"].p_holm == pytest.approx(2 * p[3], abs=1e-4)
    assert rows["a", "pooled"].p_holm == pytest.approx(p[2], abs=1e-4)
    assert rows["c", "federated"].p is None and rows["c", "federated"].note == "withheld"
    assert not rows["b", "federated"].noise and rows["c", "federated"].noise


def difference(site: str, value: float | None, error: float = 0.01, **changes) -> Difference:
    row = {
        "site": site, "role": "external", "task": "death", "label": "", "modalities": "all", "model": "federated",
        "against": "against", "metric": "auroc", "value": value, "n": 50,
        "ci_low": None if value is None else value - Z * error, "ci_high": None if value is None else value + Z * error,
    }  # fmt: skip
    return Difference(**row | changes)


def test_sites_that_agree_give_their_weighted_mean() -> None:
    """Errors .01 and .02 of one true difference: weights 4 to 1, no variance between sites."""
    rows = [difference("a", 0.050, 0.01), difference("b", 0.050, 0.02), difference("c", None)]
    found = of_pair([*rows, difference("a", 9.0, model="recalibrated")], dict.fromkeys("abc", "external"))
    whole = found[WHERE]
    assert whole.value == pytest.approx(0.05) and "without c" in whole.note
    assert whole.low is not None and whole.high is not None
    assert whole.high - whole.low >= 2 * Z * math.sqrt(1 / (1e4 + 2.5e3)) - 1e-9  # never below the normal one
    assert found[WHERE._replace(site="a")].value == pytest.approx(0.05)


def test_a_difference_the_other_way_round() -> None:
    (row,) = [difference("a", 0.05)]
    (found, _) = of_pair([row], {"a": "external"}, turned=True).values()
    assert found == Told(-0.05, -(0.05 + Z * 0.01), -(0.05 - Z * 0.01))


def test_one_site_is_its_own_summary_and_the_role_is_the_studys() -> None:
    found = of_pair([difference("a", 0.05)], {"a": "train"})
    assert found[WHERE._replace(role="train")].value == 0.05 and WHERE not in found


def test_all_inputs_of_a_model_without_leaky_ones_are_the_headline() -> None:
    found = of_pair([difference("a", 0.05)], {"a": "external"}, headline=["death"])
    assert {what.modalities for what in found} == {"headline"}
