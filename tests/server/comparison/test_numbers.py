"""Numbers of cells: over models, sites and seeds."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from fl_server.comparison.numbers import Frame, Told, What, of_cell, over_seeds
from fl_shared.results import EvaluationRow

ROLES: Any = {"a": "train", "b": "train", "x": "external"}
X = What("external", "x", "death", "", "all", "", "auroc")


def row(site: str, value: float | None, **changes) -> EvaluationRow:
    body = {
        "site": site, "role": "external", "task": "death", "label": "", "modalities": "all", "model": "federated",
        "metric": "auroc", "value": value, "n": 40, "events": 9,
        "ci_low": None if value is None else value - 0.05, "ci_high": None if value is None else value + 0.05,
    }  # fmt: skip
    return EvaluationRow(**body | changes)


def results(*rows: EvaluationRow) -> Any:
    return SimpleNamespace(evaluation=rows)


def test_local_models_are_averaged_where_several_are_judged() -> None:
    found = of_cell([results(row("a", 0.9), row("x", 0.6)), results(row("b", 0.8), row("x", 0.7))], Frame(roles=ROLES))
    assert found[X] == Told(0.65, 0.6, 0.7)
    inside = X._replace(role="train")
    assert found[inside._replace(site="a")].value == 0.9 and found[inside._replace(site="b")].value == 0.8
    assert found[X._replace(site="")].value == 0.65  # the only external site
    ends = [math.log(p / (1 - p)) for p in (0.9, 0.8)]
    whole = found[inside._replace(site="")].value
    assert whole is not None and 1 / (1 + math.exp(-min(ends))) < whole < 1 / (1 + math.exp(-max(ends)))


def test_pooled_patients_are_not_told_twice_and_sites_keep_their_role() -> None:
    rows = (row("pooled", 0.99), row("a", 0.7), row("x", 0.6), row("a", 0.1, model="recalibrated"))
    found = of_cell([results(*rows)], Frame(roles=ROLES))
    assert {(what.role, what.site) for what in found} == {
        ("train", "a"), ("train", ""), ("external", "x"), ("external", "")
    }  # fmt: skip
    assert found[X._replace(role="train", site="a")].value == 0.7


def test_inputs_without_leaky_ones_are_the_headline() -> None:
    found = of_cell([results(row("x", 0.6), row("x", 0.5, modalities="ecg"))], Frame(roles=ROLES, same=True))
    assert found[X._replace(modalities="headline")] == found[X]
    assert "headline" not in {w.modalities for w in of_cell([results(row("x", 0.6))], Frame(roles=ROLES))}


def test_over_seeds_values_and_ends_are_averaged() -> None:
    seeds = [{X: Told(0.6, 0.5, 0.7)}, {X: Told(0.8, 0.74, 0.88)}, {X: Told(None, None, None, "too few")}, {}]
    (number,) = over_seeds(seeds, variant="v", mode="federated")
    assert (number.value, number.low, number.high) == pytest.approx((0.7, 0.62, 0.79))
    assert (number.lowest, number.highest, number.seeds, number.note) == (0.6, 0.8, 2, "too few")
    (none,) = over_seeds(seeds[2:], variant="v", mode="federated")
    assert none.value is None and none.lowest is None and none.seeds == 0 and none.note == "too few"
