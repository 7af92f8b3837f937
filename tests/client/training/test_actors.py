"""Pools train alike in this process, in an actor and in a group of actors; Ray stays on loopback behind its token."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest

from fl_client.training.actors import LocalPool, RayPool
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.metrics.table import metrics_of
from fl_shared.site import Site, load_site
from fl_shared.study import Study
from fl_shared.wire import Arrays, digest

TOKEN = secrets.token_hex(32)  # one for all: Ray reads its token once a process
SITE = """schema = 1
name = "a"
[columns.age]
concept = "age"
[columns.sex]
concept = "sex"
codes = { m = 1, f = 0 }
[modalities.ehr]
kind = "table"
[tasks.death.columns]
value = "died"
[resources]
actors = ACTORS
"""


def write_site(folder: Path, *, actors: int = 1) -> Site:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rows = [
        f"p{i},s{i},2020-01-{1 + i % 28:02},{rng.integers(40, 90)},{'mf'[i % 2]},{int(rng.random() < 0.4)}"
        for i in range(60)
    ]
    (folder / "samples.csv").write_text("\n".join(["patient_id,sample_id,index_time,age,sex,died", *rows]) + "\n")
    (folder / "site.toml").write_text(SITE.replace("ACTORS", str(actors)))
    return load_site(folder)


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.model_validate(
        {
            "schema": 1,
            "name": "actors",
            "seed": 5,
            "sites": {"a": {"role": "train", "patients": 48}},
            "tasks": {"death": {"type": "binary"}},
            "modalities": {"ehr": {"kind": "table", "fields": ["age", "sex"]}},
            "model": {"width": 16, "heads": 2, "dropout": 0.0, "modality_dropout": 0.0},
            "training": {"rounds": 3, "steps": 4, "batch": 16},
            "privacy": {"mode": "none"},
            "rounds": {"quorum": 1, "deadline": 300.0},
            "evaluation": {"salt": "saltsalt", "bootstrap": 100},
        }
    )


@pytest.fixture(scope="module")
def base(study: Study) -> Arrays:
    from fl_shared.models.build import build_model, select

    return select(build_model(study), study.is_shared)


@pytest.fixture(scope="module")
def expected(study: Study, base: Arrays, tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    """The first round in this process."""
    pool = LocalPool(write_site(tmp_path_factory.mktemp("here")))
    pool.load(study)
    return pool.train(study, round=1, base=base, sigma=None, deadline=60)


def pool_of(folder: Path, *, actors: int) -> Iterator[RayPool]:
    if "ray" in sys.modules and os.environ.get("RAY_AUTH_MODE") != "token":
        pytest.skip("Ray reads its settings on import, and an earlier test imported it")
    before = dict(os.environ)
    with patch("secrets.token_hex", return_value=TOKEN):
        pool = RayPool(write_site(folder, actors=actors), address=None, namespace="test")
    try:
        yield pool
    finally:
        pool.close()
        os.environ.clear()
        os.environ.update(before | {"RAY_AUTH_MODE": "token"})  # what Ray has read


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayPool]:
    yield from pool_of(tmp_path_factory.mktemp("there"), actors=1)


def test_local_pool_answers(study: Study, base: Arrays, expected: Arrays, tmp_path: Path) -> None:
    pool = LocalPool(write_site(tmp_path))
    schema = pool.schema(study)
    assert {n: (a.shape, str(a.dtype)) for n, a in expected.items()} == {n: schema[n] for n in expected}
    assert set(expected) == {n for n in schema if n.startswith(("fusion.", "heads."))}
    assert len(pool.initial_digest(study)) == 64
    assert digest(expected) != digest(base)
    assert digest(pool.train(study, round=1, base=base, sigma=None, deadline=60)) == digest(expected)
    assert set(pool.encoders(study, deadline=60)) == {n for n in schema if n.startswith(("encoders.", "adapters."))}
    rows = pool.evaluate(study, arrays=expected, deadline=60).evaluation
    assert {row.metric for row in rows} == set(metrics_of("binary"))
    pool.close()


@pytest.mark.integration
def test_two_actors_equal_one_process(  # before the fixture `pool`: a process holds one Ray
    study: Study, base: Arrays, expected: Arrays, tmp_path: Path
) -> None:
    source = pool_of(tmp_path / "two", actors=2)
    pool = next(source)
    try:
        update = pool.train(study, round=1, base=base, sigma=None, deadline=300)
        for name, array in expected.items():
            np.testing.assert_allclose(update[name], array, atol=1e-5)
        found = listeners(descendants(os.getpid()))
        assert all(address.is_loopback for address in found)
        kill_actor(pool, 1)
        again = pool.train(study, round=1, base=base, sigma=None, deadline=300)
        assert digest(again) == digest(update)
    finally:
        source.close()


@pytest.mark.integration
def test_an_actor_trains_the_same_bits(pool: RayPool, study: Study, base: Arrays, expected: Arrays) -> None:
    pool.load(study)
    assert digest(pool.train(study, round=1, base=base, sigma=None, deadline=300)) == digest(expected)
    assert set(expected) < set(pool.schema(study))
    assert pool.evaluate(study, arrays=expected, deadline=300).evaluation


@pytest.mark.integration
def test_a_dead_actor_is_replaced_and_asked_again(pool: RayPool, study: Study, base: Arrays, expected: Arrays) -> None:
    pool.load(study)
    kill_actor(pool, 0)
    assert digest(pool.train(study, round=1, base=base, sigma=None, deadline=300)) == digest(expected)


@pytest.mark.integration
def test_a_passed_deadline_is_an_error_and_the_next_call_works(pool: RayPool, study: Study) -> None:
    with pytest.raises(TimeoutError):
        pool.encoders(study, deadline=0.0)
    assert pool.encoders(study, deadline=300)


@pytest.mark.integration
def test_rejected_data_keep_their_code(pool: RayPool, study: Study) -> None:
    other = study.model_copy(update={"tasks": {"stroke": study.tasks["death"]}})
    with pytest.raises(ConsiliumError) as caught:
        pool.load(other)
    assert caught.value.code == ExitCode.DATA
    assert caught.value.faults


@pytest.mark.integration
def test_every_listener_is_on_loopback(pool: RayPool, study: Study) -> None:
    pool.load(study)
    found = listeners(descendants(os.getpid()))
    assert len(found) > 3  # GCS, raylet, workers
    assert all(address.is_loopback for address in found)


@pytest.mark.integration
def test_a_stranger_is_refused(pool: RayPool, study: Study, tmp_path: Path) -> None:
    import ray

    pool.load(study)
    token = Path(os.environ["RAY_AUTH_TOKEN_PATH"])
    assert token.stat().st_mode & 0o777 == 0o600
    (tmp_path / "token").write_text("0" * 64)
    address = ray.get_runtime_context().gcs_address
    code = f"import ray; ray.init('{address}', logging_level='error', log_to_driver=False); print('in')"

    def knock(**changes: str) -> bool:
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | changes, capture_output=True, text=True, check=False
        )
        return "in" in done.stdout.split()

    assert knock()
    assert not knock(RAY_AUTH_TOKEN_PATH=str(tmp_path / "token"))
    assert not knock(RAY_AUTH_MODE="disabled")


def kill_actor(pool: RayPool, rank: int) -> None:
    import ray

    os.kill(ray.get(pool._actors[rank].__ray_call__.remote(lambda _: os.getpid())), signal.SIGKILL)


def descendants(root: int) -> list[int]:
    """A process and all below it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # ended meanwhile
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def listeners(pids: list[int]) -> list[IPv4Address | IPv6Address]:
    """Addresses of the processes' listening TCP sockets."""
    if shutil.which("ss") is None:
        pytest.skip("needs 'ss' (iproute2)")
    lines = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    hosts = [line.split()[3].rpartition(":")[0] for line in lines if any(f"pid={pid}," in line for pid in pids)]
    return [ip_address(host.strip("[]").replace("*", "0.0.0.0").removeprefix("::ffff:")) for host in hosts]
