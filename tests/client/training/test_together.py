"""The mean of several sites' real updates: how far one patient or one site moves it, and how much noise it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fl_client.privacy import whole_update
from fl_client.training import gradients
from fl_client.training.loop import Trainer
from fl_shared import secure
from fl_shared.budget import budget
from fl_shared.errors import ConsiliumError
from fl_shared.models.build import build_model, select
from fl_shared.study import Study
from fl_shared.together import own_sigma
from fl_shared.wire import Arrays

SIZES = {"a": 24, "b": 20, "c": 32}  # declared
RATE, CLIP, BATCH = 2.0, 0.5, 24

Step = Callable[..., Arrays]


def plan(make_study: Any, mode: str, *, noise: str = "distributed") -> Study:
    body = make_study(dropout=0.0, encoders="shared", optimizer="sgd", steps=1, batch=BATCH, learning_rate=RATE)
    made = body.model_dump(mode="json", by_alias=True)
    made["sites"] = {name: {"role": "train", "patients": n} for name, n in SIZES.items()}
    made["privacy"] = {
        "mode": mode, "epsilon": 8.0, "clip": CLIP, "noise": noise,
        "aggregation": "secure" if noise == "distributed" else "plain",
    }  # fmt: skip
    made["rounds"] = {"quorum": 3}
    return Study.model_validate(made)


@pytest.fixture
def step(make_trainer: Any, make_cohort: Any, monkeypatch: pytest.MonkeyPatch) -> Step:
    """The mean of all sites' first round; every patient is drawn with the first record, whatever the rate."""

    def everybody(records: Any, **_: Any) -> Iterator[Any]:
        yield records.rows[records._first]

    monkeypatch.setattr(gradients, "poisson_batches", everybody)

    def make(study: Study, *, noised: bool, without: tuple[str, int] = ("", 0)) -> Arrays:
        base = select(build_model(study), study.is_shared)
        total, bits = np.zeros(secure.size(base), np.uint64), secure.bits(study)
        for name, patients in SIZES.items():
            known = make_cohort(name)
            if without[0] == name:  # a held-out patient is never trained on
                known = replace(known, held_out=known.held_out | (np.arange(len(known.held_out)) == without[1]))
            event = budget(study, name, delta=study.privacy.delta).training
            trainer: Trainer = make_trainer(study, name=name, known=known, state=f"{name}{without}")
            with monkeypatch.context() as patched:
                if not noised:
                    patched.setattr(gradients, "add_noise", lambda sums, **_: sums)
                    patched.setattr(whole_update, "add_noise", lambda sums, **_: sums)
                update = trainer.train(round=1, base=base, sigma=own_sigma(study, name, event.sigma))
            total += secure.encode(update, base, patients=patients, bits=bits)
        return secure.decode(total, base, patients=sum(SIZES.values()), bits=bits)

    return make


def distance(one: Arrays, other: Arrays) -> np.ndarray:
    return np.concatenate([(one[name] - other[name]).ravel() for name in sorted(one)])


def test_one_patient_moves_the_mean_by_its_reach_and_no_more(make_study: Any, step: Step) -> None:
    study, every = plan(make_study, "patient"), sum(SIZES.values())
    whole, largest = step(study, noised=False), {}
    for site, patients in SIZES.items():
        q = min(1.0, BATCH / patients)
        bound = RATE * CLIP / q / every  # lr x (n / N) x C / (q n)
        moved = [float(np.linalg.norm(distance(step(study, noised=False, without=(site, k)), whole))) for k in (1, 4)]
        assert max(moved) <= bound * (1 + 1e-4)  # float32 parameters
        largest[site] = max(moved) / bound
    assert min(largest.values()) > 0.5, "the bound is nearly reached"


@pytest.mark.parametrize("mode", ["patient", "site"])
def test_the_mean_holds_the_noise_that_its_units_need(make_study: Any, step: Step, mode: str) -> None:
    study, every = plan(make_study, mode), sum(SIZES.values())
    noise = distance(step(study, noised=True), step(study, noised=False))
    assert len(noise) > 5000
    needed = []
    for site, patients in SIZES.items():
        sigma = budget(study, site, delta=study.privacy.delta).training.sigma
        q = min(1.0, BATCH / patients)
        moves = RATE * CLIP / (q * every) if mode == "patient" else CLIP * patients / every
        needed.append(sigma * moves)
    assert noise.std() >= 0.95 * max(needed)
    alone = np.sqrt(sum(part**2 for part in needed))  # with local noise
    assert noise.std() <= 1.05 * alone
    # every site answers and the quorum is all: the sum of the least parts that protect each
    level = sorted(needed, reverse=True)[1] ** 2 / 3
    expected = np.sqrt(sum(max(level, part**2 - 2 * level) for part in needed))
    assert noise.std() / expected == pytest.approx(1, abs=0.05)


def test_a_site_moves_the_mean_by_its_clipped_update_at_most(make_study: Any, step: Step) -> None:
    study, every = plan(make_study, "site"), sum(SIZES.values())
    base = select(build_model(study), study.is_shared)
    moved = distance(step(study, noised=False), base)
    assert float(np.linalg.norm(moved)) <= CLIP * (1 + 1e-6)
    assert float(np.linalg.norm(moved)) > 0.2 * CLIP * max(SIZES.values()) / every


def test_site_level_noise_of_one_site(make_study: Any, make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Local noise: what one site releases is its clipped update, noised with sigma C by itself, once a round."""
    study = plan(make_study, "site", noise="local")
    base = select(build_model(study), study.is_shared)
    sigma = budget(study, "b", delta=study.privacy.delta).training.sigma
    assert own_sigma(study, "b", sigma) == sigma
    trainer = make_trainer(study, name="b")
    noised = trainer.train(round=1, base=base, sigma=sigma)
    monkeypatch.setattr(whole_update, "add_noise", lambda sums, **_: sums)
    clean = trainer.train(round=1, base=base, sigma=sigma)
    assert float(np.linalg.norm(distance(clean, base))) <= CLIP * (1 + 1e-5)
    assert distance(noised, clean).std() / (sigma * CLIP) == pytest.approx(1, abs=0.05)


def test_training_without_its_noise_is_refused(make_study: Any, make_trainer: Any) -> None:
    study = plan(make_study, "site", noise="local")
    with pytest.raises(ConsiliumError, match="no training with sigma None"):
        make_trainer(study, name="b").train(round=1, base=select(build_model(study), study.is_shared), sigma=None)
