"""Parts of a site's own: FedBN, local heads, fine-tuning, FedProx; who judges what with which of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fl_client.egress import Egress
from fl_client.training.loop import Trainer
from fl_server.validation import Reason, validate_evaluation
from fl_shared.models.build import build_model, select
from fl_shared.study import NORM, Study
from fl_shared.wire import Arrays, Reply, digest

Make = Callable[..., Trainer]


def initial(study: Study) -> Arrays:
    return select(build_model(study), study.is_shared)


def predictions(trainer: Trainer, arrays: Arrays, model: str = "federated") -> list[float | None]:
    rows = trainer.evaluate(arrays=arrays).evaluation
    return [row.value for row in rows if row.model == model]


def test_norms_of_frozen_encoders_never_move(make_study: Any, make_trainer: Make) -> None:
    study = make_study(encoders="frozen", local=["norms"])
    trainer = make_trainer(study)
    before = select(trainer._model, lambda name: name.startswith("encoders."))
    out = trainer.train(round=1, base=initial(study), sigma=None)
    assert digest(select(trainer._model, lambda name: name.startswith("encoders."))) == digest(before)
    own = trainer.encoders()
    assert own and all(NORM.search(name) and not name.startswith("encoders.") for name in own)
    assert not any(NORM.search(name) for name in out)


def test_fedprox_pulls_back_what_is_shared_and_nothing_else(make_study: Any, make_trainer: Make) -> None:
    """In the second step the penalty's gradient is mu times the first step; encoders are a site's own: no pull."""
    how: dict[str, Any] = {"encoders": "local", "optimizer": "sgd", "learning_rate": 0.05, "dropout": 0.0}
    found = {}
    for name, more in {"one": {"steps": 1}, "two": {"steps": 2}, "pulled": {"steps": 2, "proximal": 2.0}}.items():
        study = make_study(**how, **more)
        trainer = make_trainer(study, state=name)
        found[name] = {**trainer.train(round=1, base=initial(study), sigma=None), **trainer.encoders()}
    start = select(build_model(make_study(**how)))
    for name, array in found["pulled"].items():
        pull = 0.0 if name.startswith(("encoders", "adapters")) else 0.05 * 2.0 * (found["one"][name] - start[name])
        np.testing.assert_allclose(array, found["two"][name] - pull, rtol=1e-4, atol=1e-6, err_msg=name)


def test_who_judges_with_which_heads(make_study: Any, make_trainer: Make) -> None:
    """A training site by its own, an external one by the initial ones, and both by the mean where it is released."""
    study = make_study(encoders="shared", local=["heads"], steps=20, learning_rate=0.01)
    site, external = make_trainer(study), make_trainer(study, name="z", state="z")
    shared = site.train(round=1, base=initial(study), sigma=None)
    start = select(build_model(study), study.is_local)
    mean = {name: (array + start[name]) / 2 for name, array in site.encoders().items()}
    assert {name.split(".")[0] for name in mean} == {"heads"}
    assert predictions(site, shared) == predictions(site, {**shared, **site.encoders()})
    assert predictions(external, shared) == predictions(external, {**shared, **start})
    assert predictions(external, {**shared, **mean}) != predictions(external, shared)
    assert predictions(site, {**shared, **mean}, "personal") == predictions(site, shared)  # its own, whatever came
    assert predictions(external, shared, "personal") == []


def test_personal_rows_pass_the_gate_and_the_coordinator_beside_the_common_ones(
    make_study: Any, make_trainer: Make
) -> None:
    study = make_study(encoders="shared", local=["norms"], finetune=3)
    trainer = make_trainer(study)
    found = trainer.evaluate(arrays=trainer.train(round=1, base=initial(study), sigma=None))
    rows = found.evaluation
    assert {row.model for row in rows} == {"federated", "personal"}
    gate = Egress(trainer._site)
    released = gate.release_findings(found, study=study, round=9, min_patients=2)
    reply = Reply(status="ok", site="a", role="train", approved=True, **dict(released))
    assert validate_evaluation(reply, {}, study=study, site="a") is None
    twice = reply.model_copy(update={"evaluation": (*rows, rows[-1])})
    assert validate_evaluation(twice, {}, study=study, site="a") == Reason.REPEATED_ROWS


@pytest.mark.parametrize("steps", [1, 50])
def test_fine_tuning_is_of_this_site_alone_and_repeats(make_study: Any, make_trainer: Make, steps: int) -> None:
    study = make_study(encoders="shared", finetune=steps, learning_rate=0.01, rounds=1)
    trainer = make_trainer(study)
    out = trainer.train(round=1, base=initial(study), sigma=None)
    first = predictions(trainer, out, "personal")
    assert first == predictions(trainer, out, "personal")
    if steps > 1:
        assert first != predictions(trainer, out)
    again = make_trainer(study, state="again")
    assert digest(again.train(round=1, base=initial(study), sigma=None)) == digest(out)
    assert predictions(again, out, "personal") == first
