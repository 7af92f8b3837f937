"""Where a site trains: in persistent Ray actors, one a GPU or CPU share, or in this process (simulation)."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from fl_client.files import private_dir, write_private
from fl_client.training.cluster import OBJECT_STORE_BYTES, QUIET
from fl_client.training.worker import Failure, Read, RemoteWorker, Schema, Worker
from fl_shared.errors import ConsiliumError
from fl_shared.results import Findings
from fl_shared.site import Site
from fl_shared.study import Study
from fl_shared.wire import Arrays

MAX_RESTARTS = 3  # in a row; a call that succeeds starts the count anew
GRACE_SECONDS = 5.0  # for the death of an actor to be known after a peer complains of it


class Pool(Protocol):
    """What trains for a site. Deadlines are seconds; `TimeoutError` when one passes."""

    def load(self, study: Study) -> None:
        """Have data and model ready; waits for at most the study's own deadline."""

    def schema(self, study: Study) -> Mapping[str, tuple[tuple[int, ...], str]]:
        """Name -> shape and dtype of every array of the model."""

    def initial_digest(self, study: Study) -> str:
        """Digest of the whole initial model."""

    def train(self, study: Study, *, round: int, base: Arrays, sigma: float | None, deadline: float) -> Arrays:
        """One round from ``base``; sigma: noise multiplier, None without privacy."""

    def encoders(self, study: Study, *, deadline: float) -> Arrays:
        """The site's encoders and adapters."""

    def statistics(self, study: Study, *, sigma: float | None, deadline: float) -> Arrays:
        """Counts of the training patients; sigma: noise multiplier, None without privacy."""

    def recalibration(
        self, study: Study, *, arrays: Arrays, tasks: tuple[str, ...], sigma: float | None, deadline: float
    ) -> Arrays:
        """Counts of the training patients' logits under a model."""

    def evaluate(
        self,
        study: Study,
        *,
        arrays: Arrays,
        name: str = "federated",
        sigma: float | None = None,
        deadline: float,
    ) -> Findings:
        """Judge the model on the site's patients; sigma: noise multiplier, None without."""

    def learned(self, study: Study, *, round: int, arrays: Arrays, deadline: float) -> Findings:
        """Judge the model of a round in the light form of the learning curves."""

    def close(self) -> None:
        """End whatever was started."""


class LocalPool:
    """Trains in this process: for the simulation engine, which already runs inside Ray, and for pretraining.

    Nothing is waited for here, so deadlines do not apply: the engine's own end a round.
    """

    def __init__(self, site: Site, *, device: str = "cpu", read: Read | None = None) -> None:
        self._worker = Worker(site, device=device, read=read)

    def load(self, study: Study) -> None:
        """See `Pool`."""
        self._worker.load(study)

    def trained_on(self, study: Study) -> frozenset[str]:
        """Modalities that some training patient has here."""
        return self._worker.trained_on(study)

    def schema(self, study: Study) -> Schema:
        """See `Pool`."""
        return self._worker.schema(study)

    def initial_digest(self, study: Study) -> str:
        """See `Pool`."""
        return self._worker.initial_digest(study)

    def train(self, study: Study, *, round: int, base: Arrays, sigma: float | None, deadline: float) -> Arrays:
        """See `Pool`."""
        return self._worker.train(study, round=round, base=base, sigma=sigma)

    def encoders(self, study: Study, *, deadline: float) -> Arrays:
        """See `Pool`."""
        return self._worker.encoders(study)

    def statistics(self, study: Study, *, sigma: float | None, deadline: float) -> Arrays:
        """See `Pool`."""
        return self._worker.statistics(study, sigma=sigma)

    def recalibration(
        self, study: Study, *, arrays: Arrays, tasks: tuple[str, ...], sigma: float | None, deadline: float
    ) -> Arrays:
        """See `Pool`."""
        return self._worker.recalibration(study, arrays=arrays, tasks=tasks, sigma=sigma)

    def evaluate(
        self,
        study: Study,
        *,
        arrays: Arrays,
        name: str = "federated",
        sigma: float | None = None,
        deadline: float,
    ) -> Findings:
        """See `Pool`."""
        return self._worker.evaluate(study, arrays=arrays, name=name, sigma=sigma)

    def learned(self, study: Study, *, round: int, arrays: Arrays, deadline: float) -> Findings:
        """See `Pool`."""
        return self._worker.learned(study, round=round, arrays=arrays)

    def close(self) -> None:
        """Nothing was started."""


class RayPool:
    """`site.resources.actors` actors on this host, kept alive between rounds.

    Several actors form one torch.distributed group. When one dies, or a call runs past its deadline, all are replaced
    (a group cannot lose a member), and a call that was cut off by a death is made once more.

    Args:
        site: read from a ``site.toml``: the actors read the same file.
        address: a Ray to join; None starts one, on loopback and behind a token.
        namespace: keeps the sites of a shared Ray apart.

    Raises:
        ConnectionError: there is no Ray at the address.
    """

    def __init__(self, site: Site, *, address: str | None, namespace: str) -> None:
        self._site = site
        # short, since Ray puts UNIX sockets below it, whose paths are limited to 107 bytes
        self._scratch = Path(tempfile.mkdtemp(prefix="fl-ray-"))
        self._actors: list[Any] = []
        self._restarts = 0
        try:
            self._connect(address, namespace)
        except BaseException:
            shutil.rmtree(self._scratch, ignore_errors=True)
            raise

    def load(self, study: Study) -> None:
        """See `Pool`."""
        self._call("load", study, {}, deadline=study.rounds.deadline)

    def schema(self, study: Study) -> Schema:
        """See `Pool`."""
        schema: Schema = self._call("schema", study, {}, deadline=study.rounds.deadline)
        return schema

    def initial_digest(self, study: Study) -> str:
        """See `Pool`."""
        return str(self._call("initial_digest", study, {}, deadline=study.rounds.deadline))

    def train(self, study: Study, *, round: int, base: Arrays, sigma: float | None, deadline: float) -> Arrays:
        """See `Pool`."""
        arguments = {"round": round, "base": dict(base), "sigma": sigma}
        update: Arrays = self._call("train", study, arguments, deadline=deadline)
        return update

    def encoders(self, study: Study, *, deadline: float) -> Arrays:
        """See `Pool`."""
        arrays: Arrays = self._call("encoders", study, {}, deadline=deadline)
        return arrays

    def statistics(self, study: Study, *, sigma: float | None, deadline: float) -> Arrays:
        """See `Pool`."""
        counts: Arrays = self._call("statistics", study, {"sigma": sigma}, deadline=deadline)
        return counts

    def recalibration(
        self, study: Study, *, arrays: Arrays, tasks: tuple[str, ...], sigma: float | None, deadline: float
    ) -> Arrays:
        """See `Pool`."""
        arguments = {"arrays": dict(arrays), "tasks": tasks, "sigma": sigma}
        counts: Arrays = self._call("recalibration", study, arguments, deadline=deadline)
        return counts

    def evaluate(
        self,
        study: Study,
        *,
        arrays: Arrays,
        name: str = "federated",
        sigma: float | None = None,
        deadline: float,
    ) -> Findings:
        """See `Pool`."""
        arguments = {"arrays": dict(arrays), "name": name, "sigma": sigma}
        found: Findings = self._call("evaluate", study, arguments, deadline=deadline)
        return found

    def learned(self, study: Study, *, round: int, arrays: Arrays, deadline: float) -> Findings:
        """See `Pool`."""
        arguments = {"round": round, "arrays": dict(arrays)}
        found: Findings = self._call("learned", study, arguments, deadline=deadline)
        return found

    def close(self) -> None:
        """End the actors, and the Ray that was started here."""
        import ray

        self._drop()
        ray.shutdown()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _connect(self, address: str | None, namespace: str) -> None:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        own: dict[str, Any] = {}
        if address is None:
            token = private_dir(self._site.state_dir / "ray") / "token"
            write_private(token, secrets.token_hex(32).encode())
            os.environ |= QUIET | {"RAY_AUTH_TOKEN_PATH": str(token)}
            own = {
                "num_cpus": self._site.resources.actors,
                "object_store_memory": OBJECT_STORE_BYTES,
                "include_dashboard": False,
                "_node_ip_address": "127.0.0.1",
                "_temp_dir": str(self._scratch),
            }
        import ray  # reads its environment once, on import
        from ray._private.ray_constants import ENABLE_RAY_CLUSTER

        if ENABLE_RAY_CLUSTER:
            raise RuntimeError("Ray was imported before it was set up: it would listen on every interface")
        # "local": without an address, Ray would join any cluster that it finds on the host
        ray.init(address or "local", namespace=namespace, log_to_driver=False, logging_level="error", **own)

    def _call(self, method: str, study: Study, arguments: Mapping[str, Any], *, deadline: float) -> Any:
        """Run a method on every actor; the first actor's answer."""
        from ray.exceptions import RayActorError

        end = time.monotonic() + deadline
        try:
            try:
                answer = self._attempt(method, study, arguments, end=end)
            except RayActorError:
                self._drop()
                answer = self._attempt(method, study, arguments, end=end)
        except Exception as error:
            # one may hang for good, or the others wait for one that failed
            if len(self._actors) > 1 or isinstance(error, RayActorError | TimeoutError):
                self._drop()
            raise
        self._restarts = 0
        if isinstance(answer, Failure):
            raise ConsiliumError(answer.message, code=answer.code, faults=answer.faults)
        return answer

    def _attempt(self, method: str, study: Study, arguments: Mapping[str, Any], *, end: float) -> Any:
        import ray

        if not self._actors:
            self._start(end)
        shared, text = ray.put(dict(arguments)), study.model_dump_json(by_alias=True)
        answers = _gather([actor.call.remote(method, text, shared) for actor in self._actors], end)
        return next((a for a in answers if isinstance(a, Failure)), answers[0])

    def _start(self, end: float) -> None:
        """New actors, in a new group.

        Raises:
            RuntimeError: they died too often in a row.
        """
        import ray

        if self._restarts > MAX_RESTARTS:
            raise RuntimeError(f"the trainer of {self._site.name} died {self._restarts} times in a row")
        self._restarts += 1
        plan = self._site.resources
        remote = ray.remote(num_cpus=1, num_gpus=plan.gpus)(RemoteWorker)
        file, state = str(self._site.folder / "site.toml"), str(self._site.state_dir)
        self._actors = [
            remote.remote(file, state=state, rank=rank, world=plan.actors, threads=plan.threads, gpu=plan.gpus > 0)
            for rank in range(plan.actors)
        ]
        if plan.actors > 1:
            seconds = max(1.0, end - time.monotonic())
            rendezvous = str(Path(tempfile.mkdtemp(dir=self._scratch)) / "group")
            _gather([actor.join.remote(rendezvous, seconds) for actor in self._actors], end)

    def _drop(self) -> None:
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []


def _gather(refs: list[Any], end: float) -> list[Any]:
    """All results, in order.

    Raises:
        TimeoutError: not all came by ``end`` (`time.monotonic` seconds).
        RayActorError: an actor died, whichever of its peers complained first.
    """
    import ray
    from ray.exceptions import RayActorError

    waiting, results = list(refs), {}
    while waiting:
        done, waiting = ray.wait(waiting, timeout=max(0.0, end - time.monotonic()))
        if not done:
            raise TimeoutError("the trainer did not answer in time")
        try:
            results[done[0]] = ray.get(done[0])
        except RayActorError:
            raise
        except Exception:
            for other in ray.wait(waiting, num_returns=len(waiting), timeout=GRACE_SECONDS)[0] if waiting else []:
                ray.get(other)
            raise
    return [results[ref] for ref in refs]
