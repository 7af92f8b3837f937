"""Phases of a study: what each trains and on whom, features computed once, FedProx, parts of a site's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fl_client.training.loop import Trainer
from fl_client.training.rows import phase_rows, share_of
from fl_shared.models.build import build_model, select
from fl_shared.models.interface import take
from fl_shared.study import STACK_SHARE, PhasePlan, Study, in_stack
from fl_shared.wire import Arrays, digest

Make = Callable[..., Trainer]
TWO = (
    {"name": "alone", "rounds": 2, "objective": "unimodal", "trains": ["encoders", "adapters", "heads"]},
    {"name": "joint", "rounds": 1, "trains": ["fusion", "heads"]},
)


def initial(study: Study) -> Arrays:
    return select(build_model(study), study.is_shared)


def run(trainer: Trainer, study: Study, *numbers: int, base: Arrays | None = None) -> Arrays:
    base = initial(study) if base is None else base
    for number in numbers:
        base = {**base, **trainer.train(round=number, base=base, sigma=None)}
    return base


def test_a_phase_changes_and_releases_only_what_it_trains(make_study: Any, make_trainer: Make) -> None:
    study = make_study(rounds=3, phases=TWO)
    trainer = make_trainer(study)
    first = trainer.train(round=1, base=initial(study), sigma=None)
    assert {name.split(".")[0] for name in first} == {"heads"}
    assert {name.split(".")[1] for name in first} >= {"death", "death@ecg", "mace@ehr"}
    before = initial(study)
    changed = {name.split(".")[1] for name, array in first.items() if not np.array_equal(array, before[name])}
    assert changed == {"death@ecg", "death@ehr", "mace@ecg", "mace@ehr"}  # the joint heads are not in this objective
    local = trainer.encoders()
    last = trainer.train(round=3, base={**before, **first}, sigma=None)
    assert {name.split(".")[0] for name in last} == {"fusion", "heads"}
    assert digest(trainer.encoders()) == digest(local)  # encoders rest in the second phase


def test_a_restart_within_phases_continues_with_the_same_bits(make_study: Any, make_trainer: Make) -> None:
    study = make_study(rounds=3, phases=TWO)
    through = run(make_trainer(study, state="through"), study, 1, 2, 3)
    base = run(make_trainer(study), study, 1, 2)
    assert digest(run(make_trainer(study), study, 3, base=base)) == digest(through)


def test_constant_encoders_run_once_and_change_nothing(
    make_study: Any, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(encoders="frozen", dropout=0.0)
    trainer, plain = make_trainer(study), make_trainer(study, state="plain")
    runs: list[int] = []
    encoder = trainer._model.encoders["ecg"]
    encoder.register_forward_hook(lambda *_: runs.append(1))
    cached = run(trainer, study, 1, 2)
    assert runs == []  # it ran when the trainer was made, for all rows
    assert len(trainer._features.fill(trainer._batch).features["ecg"].pooled) == len(trainer._batch)
    monkeypatch.setattr(type(plain._features), "fill", lambda self, batch: batch)
    expected = run(plain, study, 1, 2)
    for name, array in expected.items():
        np.testing.assert_allclose(cached[name], array, rtol=1e-4, atol=1e-6, err_msg=name)


def test_features_are_anew_when_the_encoder_is_another(make_study: Any, make_trainer: Make) -> None:
    trainer = make_trainer(make_study(encoders="frozen"))
    before = trainer._features.fill(trainer._batch).features["ehr"].pooled.clone()
    with torch.no_grad():
        trainer._model.encoders["ehr"].norm.weight.mul_(2)
    after = trainer._features.fill(trainer._batch).features["ehr"].pooled
    torch.testing.assert_close(after, 2 * before)


def test_features_of_a_part_are_a_part_of_the_features(make_study: Any, make_trainer: Make) -> None:
    trainer = make_trainer(make_study(encoders="frozen"))
    rows = torch.tensor([4, 1])
    known = take(trainer._features.fill(trainer._batch), rows).features["ecg"]
    torch.testing.assert_close(known.tokens, trainer._model.features("ecg", take(trainer._batch, rows)).tokens)


def test_stack_and_fit_part_the_training_patients(make_study: Any, make_trainer: Make) -> None:
    trainer = make_trainer(make_study())
    cohort, plan = trainer._cohort, trainer._study.evaluation
    parts = {
        kind: phase_rows(cohort, PhasePlan(name="p", rounds=1, patients=kind), site="a", plan=plan)
        for kind in ("all", "fit", "stack")
    }
    assert sorted([*parts["fit"], *parts["stack"]]) == sorted(parts["all"])
    assert not set(cohort.patient[parts["fit"]]) & set(cohort.patient[parts["stack"]])
    many = [in_stack(f"p{k}", site="a", plan=plan) for k in range(4000)]
    assert np.mean(many) == pytest.approx(STACK_SHARE, abs=0.02)
    shares = [share_of(PhasePlan(name="p", rounds=1, patients=kind)) for kind in ("fit", "stack")]
    assert sum(shares) == pytest.approx(1)


def test_fedprox_is_the_gradient_of_its_penalty(make_study: Any, make_trainer: Make) -> None:
    """Two steps of SGD by hand: the second one is pulled back by mu times what the first one moved."""
    made: dict[str, Any] = {"encoders": "frozen", "optimizer": "sgd", "learning_rate": 0.1, "dropout": 0.0}
    one = run(make_trainer(make_study(steps=1, **made), state="one"), make_study(steps=1, **made), 1)
    plain = run(make_trainer(make_study(steps=2, **made), state="two"), make_study(steps=2, **made), 1)
    prox = make_study(steps=2, proximal=3.0, **made)
    pulled = run(make_trainer(prox, state="prox"), prox, 1)
    start = initial(prox)
    for name, array in pulled.items():
        expected = plain[name] - 0.1 * 3.0 * (one[name] - start[name])
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_local_norms_and_heads_stay_and_are_judged_as_personal(make_study: Any, make_trainer: Make) -> None:
    study = make_study(encoders="shared", local=["norms", "heads"], finetune=2)
    trainer = make_trainer(study)
    out = trainer.train(round=1, base=initial(study), sigma=None)
    assert {name.split(".")[0] for name in out} == {"encoders", "adapters", "fusion"}
    assert not any("norm" in name for name in out)
    own = trainer.encoders()
    assert any(name.startswith("heads.") for name in own) and any(".norm" in name for name in own)
    rows = trainer.evaluate(arrays=out).evaluation
    found = {(row.model, row.metric): row.value for row in rows if (row.task, row.modalities) == ("death", "all")}
    assert {model for model, _ in found} == {"federated", "personal"}
    assert digest(trainer.encoders()) == digest(own)  # fine-tuning leaves nothing behind


def test_every_normalisation_layer_is_named_so(make_study: Any) -> None:
    from fl_shared.study import NORM

    model = build_model(make_study())
    kinds = (torch.nn.LayerNorm, torch.nn.GroupNorm)
    named = {f"{path}.weight" for path, module in model.named_modules() if isinstance(module, kinds)}
    assert named and named == {name for name in model.state_dict() if NORM.search(name) and name.endswith("weight")}


def test_phases_must_fill_the_rounds(make_study: Any) -> None:
    with pytest.raises(ValueError, match="the phases have 3 rounds, rounds = 4"):
        make_study(rounds=4, phases=TWO)
