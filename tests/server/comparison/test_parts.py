"""What models make of parts of their inputs: over models and seeds, and drawn."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import made_up

from fl_server.comparison.index import index_of
from fl_server.comparison.parts import Asked, forests, of_cell, over_seeds
from fl_shared.results import Attention, Importance

ROLES: Any = {"a": "train", "x": "external"}
ECG = Asked("attention", "external", "x", "", "", None, "ecg", 40)
LABORATORY = Asked("importance", "external", "x", "death", "", "auroc", "laboratory", 40)


def results(share: float | None, lost: float, **changes: Any) -> Any:
    """Of one model: attention to the ECG, and the loss without laboratory values."""
    at = {"site": "x", "role": "external", "model": "federated", "n": 40} | changes
    ends = {"ci_low": None, "ci_high": None} if share is None else {"ci_low": share - 0.1, "ci_high": share + 0.1}
    note = "too few" if share is None else ""
    importance = {"task": "death", "label": "", "metric": "auroc", "group": "laboratory", "ci_low": 0.0, "ci_high": 0.1}
    return SimpleNamespace(
        attention=[Attention(**at, **ends, modality="ecg", value=share, note=note)],
        importance=[Importance(**at, **importance, value=lost)],
    )


def test_models_and_seeds_are_averaged() -> None:
    models = of_cell([results(0.4, 0.02), results(0.6, 0.05)], ROLES)
    assert models[ECG][:3] == (0.5, 0.4, 0.6)
    assert models[LABORATORY].value == 0.035
    attention, importance = over_seeds([models, of_cell([results(None, 0.045)], ROLES)], variant="v", mode="local")
    assert (attention.value, attention.seeds, attention.note) == (0.5, 1, "too few")
    assert (importance.value, importance.low, importance.high, importance.seeds) == (0.04, 0.0, 0.1, 2)
    assert (importance.variant, importance.mode, importance.n) == ("v", "local", 40)


def test_a_site_that_the_comparison_does_not_know_and_other_models_are_left_out() -> None:
    assert of_cell([results(0.4, 0.02, site="pooled"), results(0.4, 0.02, model="recalibrated")], ROLES) == {}


def test_external_sites_are_drawn_each_with_every_variant() -> None:
    index = index_of(made_up.everything())
    for kind, names in (("attention", ["ecg", "ehr"]), ("importance", ["laboratory", "person"])):
        shown = forests(index, kind)
        assert [forest.caption.rpartition("at ")[2] for forest in shown] == ["harbour", "west_bank"]
        for forest in shown:
            assert [group.name for group in forest.groups] == [made_up.FUSIONS["plain"], made_up.FUSIONS["medfuse"]]
            assert all([line.name for line in group.lines] == names for group in forest.groups)
