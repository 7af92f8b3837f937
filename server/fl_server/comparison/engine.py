"""Many works at a time: one after the other in this process, or as Ray tasks, one CPU each."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from fl_server.comparison.work import Done

Key = TypeVar("Key", bound=Hashable)
Job = Callable[[], Done]
"""Picklable: a `functools.partial` of a function of a module."""


class Engine:
    """Does jobs, at most ``workers`` at a time: one alone in this process, several as Ray tasks.

    Ray is started at the first need and once: it reads its token once a process.

    Args:
        workers: at least 1.
        scratch: folder for Ray's token (0700).
    """

    def __init__(self, *, workers: int, scratch: Path) -> None:
        self._workers, self._scratch = workers, scratch
        self._stack = ExitStack()
        self._ray: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, jobs: Mapping[Key, Job], *, started: Callable[[Key], None]) -> Iterator[tuple[Key, Done]]:
        """Do all jobs, in their order; gives each as it ends. ``started`` is told when one begins."""
        if self._workers == 1 or not jobs:
            for key, job in jobs.items():
                started(key)
                yield key, job()
            return
        if self._ray is None:
            self._ray = self._stack.enter_context(_own_ray(self._workers, self._scratch))
        remote = self._ray.remote(num_cpus=1, max_retries=0)(_call)
        waiting, running = deque(jobs.items()), dict[Any, Key]()
        while waiting or running:
            while waiting and len(running) < self._workers:
                key, job = waiting.popleft()
                running[remote.remote(job)] = key
                started(key)
            (ready,), _ = self._ray.wait(list(running), num_returns=1)
            yield running.pop(ready), _result(self._ray, ready)


def _call(job: Job) -> Done:
    return job()


def _result(ray: Any, ready: Any) -> Done:
    """A job tells its own failures; what is raised here is the death of its process."""
    try:
        done: Done = ray.get(ready)
    except ray.exceptions.RayError as error:
        first = str(error).strip().splitlines()[0]
        return Done(state="failed", reason=f"its process died ({type(error).__name__}: {first})")
    return done


@contextmanager
def _own_ray(workers: int, scratch: Path) -> Iterator[Any]:
    """A Ray of this command alone, on loopback and behind a token."""
    from fl_client.files import private_dir, write_private
    from fl_client.training.cluster import OBJECT_STORE_BYTES, QUIET

    token = private_dir(scratch) / "token"
    write_private(token, secrets.token_hex(32).encode())
    os.environ |= QUIET | {"RAY_AUTH_TOKEN_PATH": str(token.resolve())}
    import ray  # reads its environment once, on import
    from ray._private.ray_constants import ENABLE_RAY_CLUSTER

    if ENABLE_RAY_CLUSTER:
        raise RuntimeError("Ray was imported before it was set up: it would listen on every interface")
    # short, since Ray puts UNIX sockets below it, whose paths are limited to 107 bytes
    folder = tempfile.mkdtemp(prefix="fl-ray-")
    try:
        # "local": without an address, Ray would join any cluster that it finds on the host
        ray.init(
            "local",
            num_cpus=workers,
            num_gpus=0,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        yield ray
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
