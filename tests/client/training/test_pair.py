"""Two models that read other inputs, on the samples that both can read."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fl_client.training.judge import Told
from fl_client.training.pair import _differences
from fl_shared.results import Difference
from fl_shared.study import Study

RNG = np.random.default_rng(5)
IDS = np.array([f"s{k:03}" for k in RNG.permutation(120)])
DEAD = RNG.random(120) < 0.4
SHARP, DULL = (DEAD * 1.0 + RNG.normal(0, noise, 120) for noise in (0.8, 2.5))
STUDY = Study.model_validate(
    {
        "schema": 1, "name": "toy", "seed": 7,
        "sites": {"xian": {"role": "external"}, "a": {"role": "train", "patients": 9}},
        "tasks": {"death": {"type": "binary"}},
        "modalities": {"ecg": {"kind": "waveform", "leads": ["I"], "rate": 100, "seconds": 10}},
        "training": {"rounds": 1, "steps": 1, "batch": 10}, "privacy": {"mode": "none"}, "rounds": {"quorum": 1},
        "evaluation": {"salt": "saltsalt", "bootstrap": 100},
    }
)  # fmt: skip


def told(chosen: np.ndarray, scores: np.ndarray, dead: np.ndarray = DEAD) -> tuple[Told, tuple[str, ...]]:
    """What a model says of some samples, which are all that its cohort holds (but for two more)."""
    ids = ("before", *IDS[chosen], "behind")
    rows = np.arange(len(chosen)) + 1
    risk = 1 / (1 + np.exp(-scores[chosen]))
    return Told(
        rows=rows, predictions={"death": risk[:, None]}, targets={"death": dead[chosen][:, None].astype(np.float32)},
        mask={"death": np.ones((len(chosen), 1), dtype=bool)},
    ), ids  # fmt: skip


def differences(one: tuple[Told, tuple[str, ...]], two: tuple[Told, tuple[str, ...]]) -> list[Difference]:
    cohort = SimpleNamespace(sample_ids=one[1], patient=np.arange(len(one[1])))
    judge = SimpleNamespace(study=STUDY, site=SimpleNamespace(name="xian"), cohort=cohort, fewest=10)
    key = ("all", "death")
    return list(_differences(judge, {key: one[0]}, {key: two[0]}, ids=two[1], name="federated"))


def test_samples_are_found_in_whatever_order_they_stand() -> None:
    first, second = np.arange(30, 100), RNG.permutation(120)
    (row,) = (d for d in differences(told(first, SHARP), told(second, DULL)) if d.metric == "auroc")
    sharp, dull = (roc_auc_score(DEAD[first], scores[first]) for scores in (SHARP, DULL))
    assert row.value == pytest.approx(sharp - dull, abs=1e-4) and row.value > 0.1 and row.n == 70


def test_nothing_is_told_of_part_of_the_samples_or_of_other_outcomes() -> None:
    assert differences(told(np.arange(50), SHARP), told(np.arange(120), DULL))
    assert not differences(told(np.arange(51), SHARP), told(np.arange(50), DULL))
    assert not differences(told(np.arange(120), SHARP), told(np.arange(120), DULL, ~DEAD))
