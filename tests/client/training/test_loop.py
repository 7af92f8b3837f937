"""The trainer: same bits in every process without privacy, none the same with it, nothing lost at a restart."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from fl_client.privacy.clipping import GhostClipper
from fl_client.training import gradients as gradients_module
from fl_client.training.loop import Trainer
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model, groups, select
from fl_shared.models.interface import take
from fl_shared.study import PARTS, Study
from fl_shared.wire import Arrays, digest

Make = Callable[..., Trainer]
SGD: dict[str, Any] = {"dropout": 0.0, "optimizer": "sgd", "learning_rate": 0.02}  # Adam would magnify rounding


def initial(study: Study) -> Arrays:
    return select(build_model(study), study.is_shared)


def rounds(trainer: Trainer, study: Study, *numbers: int, sigma: float | None = None) -> Arrays:
    base = initial(study)
    for number in numbers:
        base = trainer.train(round=number, base=base, sigma=sigma)
    return base


@pytest.mark.parametrize("encoders", ["local", "shared", "frozen"])
def test_same_bits_whatever_trains(make_study: Any, make_trainer: Make, encoders: str):
    study = make_study(encoders=encoders)
    first, second = make_trainer(study, state="one"), make_trainer(study, state="two")
    torch.manual_seed(123)  # another process has other global randomness
    one = rounds(first, study, 1, 2)
    state = torch.random.get_rng_state()
    two = rounds(second, study, 1, 2)
    assert digest(one) == digest(two) != digest(initial(study))
    assert digest(first.encoders()) == digest(second.encoders())
    assert torch.equal(torch.random.get_rng_state(), state)  # and none of it is used up
    assert all(array.dtype == np.float32 for array in one.values())


def test_only_the_shared_groups_come_out(make_study: Any, make_trainer: Make):
    for encoders, parts in (("local", {"fusion", "heads"}), ("shared", set(PARTS) - {"encoders", "adapters"})):
        study = make_study(encoders=encoders)
        trained = rounds(make_trainer(study, state=encoders), study, 1)
        assert {name.split(".")[0] for name in trained} >= parts
        assert set(trained) == set(initial(study))
    study = make_study(encoders="frozen")
    trainer = make_trainer(study, state="frozen")
    before = select(trainer._model, lambda name: name.startswith("encoders."))
    rounds(trainer, study, 1)
    assert digest(select(trainer._model, lambda name: name.startswith("encoders."))) == digest(before)


def test_a_restart_continues_with_the_same_bits(make_study: Any, make_trainer: Make):
    study = make_study()
    through = make_trainer(study, state="through")
    expected = rounds(through, study, 1, 2, 3)
    base = rounds(make_trainer(study), study, 1, 2)
    restarted = make_trainer(study)
    found = restarted.train(round=3, base=base, sigma=None)
    assert digest(found) == digest(expected)
    assert digest(restarted.encoders()) == digest(through.encoders()) == digest(make_trainer(study).encoders())


def test_a_repeated_round_starts_from_the_one_before(make_study: Any, make_trainer: Make):
    study = make_study()
    trainer = make_trainer(study)
    one = rounds(trainer, study, 1)
    two = trainer.train(round=2, base=one, sigma=None)
    assert digest(trainer.train(round=2, base=one, sigma=None)) == digest(two)
    assert digest(make_trainer(study).train(round=2, base=one, sigma=None)) == digest(two)
    assert digest(trainer.train(round=1, base=initial(study), sigma=None)) == digest(one)


def test_a_site_that_missed_a_round_goes_on_from_its_last_one(make_study: Any, make_trainer: Make):
    study = make_study()
    base = rounds(make_trainer(study), study, 1)
    trainer = make_trainer(study)
    own = trainer.encoders()
    trainer.train(round=4, base=base, sigma=None)
    assert digest(trainer.encoders()) != digest(own)
    make_trainer(study, state="late").train(round=4, base=base, sigma=None)  # joined late: the common initial model


@pytest.mark.parametrize("damage", ["gone", "torn"])
def test_lost_local_groups_are_an_error_and_no_fresh_start(
    make_study: Any, make_trainer: Make, tmp_path: Path, damage: str
):
    study = make_study()
    base = rounds(make_trainer(study), study, 1)
    file = tmp_path / "state" / "local" / study.identity / "round_1.safetensors"
    file.unlink() if damage == "gone" else file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ConsiliumError, match="round_1") as caught:
        make_trainer(study).train(round=2, base=base, sigma=None)
    assert caught.value.code == ExitCode.FAILED


def test_old_rounds_are_cleared_from_disk(make_study: Any, make_trainer: Make, tmp_path: Path):
    study = make_study(steps=1)
    rounds(make_trainer(study), study, 1, 2, 3, 4, 5)
    folder = tmp_path / "state" / "local" / study.identity
    assert sorted(file.name for file in folder.glob("*.safetensors")) == [f"round_{k}.safetensors" for k in (3, 4, 5)]
    assert json.loads((folder / "finished.json").read_text()) == [1, 2, 3, 4, 5]


def test_initial_digest_and_encoders_are_those_of_the_common_model(make_study: Any, make_trainer: Make):
    study = make_study()
    whole = select(build_model(study))
    trainer = make_trainer(study)
    assert trainer.initial_digest() == digest(whole)
    encoders = {name: array for name, array in whole.items() if name.split(".")[0] in ("encoders", "adapters")}
    assert digest(trainer.encoders()) == digest(encoders)
    rounds(trainer, study, 1)
    assert trainer.initial_digest() == digest(whole)
    assert set(trainer.encoders()) == set(encoders)
    assert {g.split(".")[0] for g in groups(trainer._model)} <= set(PARTS)


def test_training_learns(make_study: Any, make_trainer: Make):
    study = make_study(steps=25, batch=20, learning_rate=0.01, dropout=0.0)
    trainer = make_trainer(study)
    rows = trainer.evaluate(arrays=rounds(trainer, study, 1)).evaluation
    auroc = next(r for r in rows if (r.task, r.modalities, r.metric) == ("death", "all", "auroc"))
    assert auroc.value is not None
    assert auroc.value > 0.9


def test_wrong_base_is_refused(make_study: Any, make_trainer: Make):
    study = make_study()
    trainer, base = make_trainer(study), initial(study)
    some = dict(list(base.items())[1:])
    with pytest.raises(ValueError, match="shared groups"):
        trainer.train(round=1, base=some, sigma=None)
    with pytest.raises(ValueError, match="do not fit"):
        trainer.train(round=1, base={**base, next(iter(base)): np.zeros(3, np.float32)}, sigma=None)


# --- with privacy


def test_private_rounds_are_never_the_same(make_study: Any, make_trainer: Make):
    study = make_study(mode="patient")
    base, trainer = initial(study), make_trainer(study)
    draws = []
    for _ in range(2):
        torch.manual_seed(0)
        np.random.seed(0)
        draws.append(digest(trainer.train(round=1, base=base, sigma=1.0)))
    assert draws[0] != draws[1]
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_private_gradient_is_noised_sum_over_the_declared_number(
    make_study: Any, make_trainer: Make, monkeypatch: pytest.MonkeyPatch
):
    study = make_study(mode="patient", steps=1, batch=24, dropout=0.0)  # q = 1: all 20 patients, declared are 24
    trainer = make_trainer(study)
    source = trainer._gradients
    monkeypatch.setattr(gradients_module, "poisson_batches", lambda *_, **__: iter([source.rows[:5]]))
    clean = GhostClipper.clipped_sum(source._clipper, take(trainer._batch, source.rows[:5]), clip=1.0, micro_batch=9)
    sigma = 3.0
    gradients = next(source.private(trainer._batch, sigma=sigma))
    noise = torch.cat([(24 * gradients[name] - clean[name]).flatten() for name in clean])
    assert set(clean) == {name for name, p in trainer._model.named_parameters() if p.requires_grad}
    assert any(name.startswith("encoders.ecg") for name in clean)
    assert float(noise.std()) / sigma == pytest.approx(1, abs=0.05)
    assert abs(float(noise.mean())) / sigma < 5 / len(noise) ** 0.5


def test_private_training_with_little_noise_learns(make_study: Any, make_trainer: Make):
    study = make_study(mode="patient", steps=25, batch=20, learning_rate=0.01, dropout=0.0)
    trainer = make_trainer(study)
    rows = trainer.evaluate(arrays=rounds(trainer, study, 1, sigma=0.01)).evaluation
    auroc = next(r for r in rows if (r.task, r.modalities, r.metric) == ("death", "all", "auroc"))
    assert auroc.value is not None
    assert auroc.value > 0.9


@pytest.mark.parametrize(("mode", "sigma"), [("none", 1.0), ("patient", None), ("patient", 0.0), ("patient", -1.0)])
def test_sigma_must_go_with_the_mode(make_study: Any, make_trainer: Make, mode: str, sigma: float | None):
    study = make_study(mode=mode)
    with pytest.raises(ConsiliumError) as caught:
        make_trainer(study).train(round=1, base=initial(study), sigma=sigma)
    assert caught.value.code == ExitCode.PRIVACY


def test_an_external_site_is_never_trained(make_study: Any, make_trainer: Make):
    for mode, sigma in (("none", None), ("patient", 1.0)):
        study = make_study(mode=mode)
        with pytest.raises(ConsiliumError, match="external"):
            make_trainer(study, name="z").train(round=1, base=initial(study), sigma=sigma)


# --- several processes of one hospital

WORKER = """
import sys
from datetime import timedelta
from pathlib import Path
import torch
from safetensors.numpy import save_file
from torch import distributed
sys.path.insert(0, sys.argv[1])
from conftest import cohort, site, study
from fl_client.training.loop import Trainer
from fl_shared.models.build import build_model, select

folder, rank = Path(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(1)
store = distributed.FileStore(str(folder / "store"), 2)
distributed.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=timedelta(seconds=120))
for mode in ("none", "patient"):
    plan = study(mode=mode, dropout=0.0, optimizer="sgd", learning_rate=0.02)
    trainer = Trainer(study=plan, site=site(folder, "a", "state"), cohort=cohort("a"), rank=rank, world=2)
    base = select(build_model(plan), plan.is_shared)
    for k in (1, 2):
        base = trainer.train(round=k, base=base, sigma=None if mode == "none" else 1.0)
    save_file({**base, **trainer.encoders()}, folder / f"{mode}_{rank}.safetensors")
distributed.destroy_process_group()
"""


@pytest.mark.integration
def test_two_processes_agree_and_without_privacy_equal_one(make_study: Any, make_trainer: Make, tmp_path: Path):
    folder = tmp_path / "two"
    folder.mkdir()
    here = str(Path(__file__).parent)
    workers = [
        subprocess.Popen([sys.executable, "-W", "ignore", "-c", WORKER, here, str(folder), str(rank)])
        for rank in (0, 1)
    ]
    assert [worker.wait(timeout=240) for worker in workers] == [0, 0]
    for mode in ("none", "patient"):
        one, two = (load_file(folder / f"{mode}_{rank}.safetensors") for rank in (0, 1))
        assert digest(one) == digest(two)
    study = make_study(**SGD)
    trainer = make_trainer(study)
    plain = load_file(folder / "none_0.safetensors")
    for name, array in {**rounds(trainer, study, 1, 2), **trainer.encoders()}.items():
        np.testing.assert_allclose(plain[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
    assert len(list((folder / "state" / "local").glob("*/round_*.safetensors"))) == 4  # one writer a site


def test_shards_sums_add_up_to_the_whole(make_study: Any, make_trainer: Make, monkeypatch: pytest.MonkeyPatch):
    """What the ranks' noise-free sums total to is the one process' sum, empty shards included."""
    study = make_study(mode="patient", dropout=0.0)
    drawn = make_trainer(study)._gradients.rows[:7]
    monkeypatch.setattr(gradients_module, "add_noise", lambda sums, **_: sums)

    def gradients(rank: int, world: int, rows: Any) -> dict[str, torch.Tensor]:
        trainer = make_trainer(study, rank=rank, world=world)
        monkeypatch.setattr(gradients_module, "poisson_batches", lambda *_, **__: iter([rows]))
        monkeypatch.setattr(gradients_module.distributed, "all_reduce", lambda _: None)
        return next(trainer._gradients.private(trainer._batch, sigma=1.0))

    whole = gradients(0, 1, drawn)
    parts = [gradients(0, 3, drawn[:4]), gradients(1, 3, drawn[4:]), gradients(2, 3, drawn[:0])]
    for name, value in whole.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value, rtol=1e-4, atol=1e-7)


def test_all_records_of_a_patient_train_under_privacy(make_study: Any, make_trainer: Any) -> None:
    plan = make_study(mode="patient")
    plan = plan.model_copy(update={"privacy": plan.privacy.model_copy(update={"records": "all"})})
    trainer = make_trainer(plan)
    base = {n: a for n, a in select(build_model(plan)).items() if plan.is_shared(n)}
    update = trainer.train(round=1, base=base, sigma=1.0)
    assert all(np.isfinite(a).all() for a in update.values())
    assert any((update[n] != base[n]).any() for n in update)
