"""Distributed noise, closed form: whatever sites answer, each one's units keep the study's epsilon, and just so."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from fl_shared.accounting import Event, epsilon
from fl_shared.budget import budget
from fl_shared.study import Study
from fl_shared.together import own_sigma

SIZES = {"aarau": 150, "basel": 1300, "chur": 700, "davos": 400}


def make_study(mode: str, *, noise: str = "distributed", quorum: int = 3, batch: int = 64, **more: Any) -> Study:
    return Study.model_validate(
        {
            "schema": 1,
            "name": "noise",
            "seed": 7,
            "sites": {name: {"role": "train", "patients": n} for name, n in SIZES.items()},
            "tasks": {"death": {"type": "binary"}},
            "modalities": {"ehr": {"kind": "table", "fields": ["age"]}},
            "training": {"rounds": 40, "steps": 1, "batch": batch, "encoders": "frozen", "optimizer": "sgd"},
            "privacy": {
                "mode": mode, "epsilon": 6.0, "delta": 1e-5, "clip": 2.0, "noise": noise,
                "aggregation": "secure" if noise == "distributed" else "plain",
            },
            "rounds": {"quorum": quorum},
            "evaluation": {"salt": "saltsalt"},
        } | more
    )  # fmt: skip


def weight(study: Study, site: str, answering: tuple[str, ...]) -> float:
    """What the weighted mean of parameters multiplies a site's clipped quantity with, a learning rate of 1."""
    share = SIZES[site] / sum(SIZES[name] for name in answering)
    if study.privacy.mode == "site":
        return share
    q = min(1.0, study.training.batch / SIZES[site])
    return share / (q * SIZES[site])  # a site divides its sum by its expected number of patients


def added(study: Study) -> dict[str, float]:
    """Standard deviation of what each site adds to its clipped quantity."""
    paid = {name: budget(study, name, delta=study.privacy.delta).training for name in SIZES}
    return {name: own_sigma(study, name, event.sigma) * study.privacy.clip for name, event in paid.items()}


def spread(study: Study, answering: tuple[str, ...]) -> float:
    """Standard deviation of the noise in the mean of the sites that answer."""
    own = added(study)
    return float(np.sqrt(sum((weight(study, name, answering) * own[name]) ** 2 for name in answering)))


@pytest.mark.parametrize("mode", ["patient", "site"])
@pytest.mark.parametrize("quorum", [3, 4])
@pytest.mark.parametrize("batch", [64, 200])  # of the second one, the smallest site draws all its patients
def test_every_quorum_protects_every_site(mode: str, quorum: int, batch: int) -> None:
    study = make_study(mode, quorum=quorum, batch=batch)
    clip, delta = study.privacy.clip, study.privacy.delta
    paid = {name: budget(study, name, delta=delta).training for name in SIZES}
    tightest = []
    for number in range(quorum, len(SIZES) + 1):
        for answering in combinations(sorted(SIZES), number):
            noise = spread(study, answering)
            for name in answering:
                sigma = noise / (weight(study, name, answering) * clip)
                assert sigma >= paid[name].sigma * (1 - 1e-12), "the ledger claims more noise than there is"
                tightest.append(sigma / paid[name].sigma)
                seen = epsilon([Event(paid[name].q, sigma, paid[name].steps)], delta=delta)
                assert seen <= 6.0 + 1e-9
    assert min(tightest) == pytest.approx(1.0, rel=1e-9)  # nor less than it claims


def test_equal_sites_share_the_noise_equally() -> None:
    """s = sigma C / sqrt(quorum): over all K sites the mean has sqrt(K / quorum) of what one would need by itself."""
    equal = {name: {"role": "train", "patients": 500} for name in SIZES}
    for mode in ("patient", "site"):
        local, shared = (make_study(mode, noise=noise, sites=equal) for noise in ("local", "distributed"))
        sigma = budget(local, "aarau", delta=1e-5).training.sigma
        assert own_sigma(local, "aarau", sigma) == sigma
        assert own_sigma(shared, "aarau", sigma) == pytest.approx(sigma / np.sqrt(3))


@pytest.mark.parametrize("mode", ["patient", "site"])
def test_no_other_level_gives_less_noise(mode: str) -> None:
    """Against a search over b, whose ends are local noise and equal parts."""
    study, every = make_study(mode), tuple(sorted(SIZES))
    sigmas = {name: budget(study, name, delta=1e-5).training.sigma for name in SIZES}
    needs = np.array([(sigmas[name] * weight(study, name, every) * study.privacy.clip) ** 2 for name in every])
    levels = np.linspace(0, needs.max() / 3, 2001)
    least = min(np.maximum(level, needs - 2 * level).sum() for level in levels)
    assert spread(study, every) <= np.sqrt(least) * (1 + 1e-9)
    assert spread(study, every) < spread(make_study(mode, noise="local"), every) * 0.95


def test_local_noise_is_the_ledgers_own() -> None:
    for mode in ("patient", "site"):
        study = make_study(mode, noise="local")
        for name, n in SIZES.items():
            event = budget(study, name, delta=1e-5).training
            assert event.q == (min(1.0, 64 / n) if mode == "patient" else 1.0)
            assert epsilon([event], delta=1e-5) == pytest.approx(6.0, abs=0.01)


def test_a_site_with_a_stricter_delta_adds_what_it_needs_more() -> None:
    study, every = make_study("patient"), tuple(sorted(SIZES))
    strict = budget(study, "basel", delta=1e-7).training
    own = {**added(study), "basel": own_sigma(study, "basel", strict.sigma) * study.privacy.clip}
    for answering in (every, ("aarau", "basel", "davos"), ("basel", "chur", "davos")):
        noise = np.sqrt(sum((weight(study, name, answering) * own[name]) ** 2 for name in answering))
        assert noise / (weight(study, "basel", answering) * study.privacy.clip) >= strict.sigma * (1 - 1e-12)


def test_parts_of_epsilon_are_shared_with_counts() -> None:
    counts = {"tasks": ["death"], "epsilon": 1.0}
    study = make_study("patient", statistics=counts)
    for name in SIZES:
        found = budget(study, name, delta=1e-5)
        assert epsilon([found.training, found.statistics], delta=1e-5) <= 6.0 + 1e-9
        assert found.training.sigma > budget(make_study("patient"), name, delta=1e-5).training.sigma
