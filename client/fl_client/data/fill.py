"""Reads the files of a modality: from the cache where they are known, else decoded, by several processes when long."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from fl_client.data.cache import SampleCache
from fl_client.data.findings import UnreadableError
from fl_client.data.kinds import FileKind, Sample
from fl_shared.processes import end_with_parent
from fl_shared.site import FileModality
from fl_shared.study import ModalityPlan

IN_FLIGHT = 2  # samples a process has or waits for
WORTH_PROCESSES = 5.0  # seconds of decoding left: starting processes takes about two


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """How one modality is read; picklable, since it travels to other processes."""

    kind: FileKind
    plan: ModalityPlan
    mapped: FileModality
    root: Path
    cache: SampleCache

    def look_up(self, named: str) -> tuple[str, Sample | None] | UnreadableError:
        """The key of a sample, and the sample when the cache has it."""
        try:
            files = self.kind.files(self.root, named, self.mapped)
            key = self.cache.key(self.kind, files, plan=self.plan, mapped=self.mapped)
        except UnreadableError as error:
            return error
        return key, self.cache.get(key)

    def decode(self, key: str, named: str) -> Sample | UnreadableError:
        """Read the files and keep the sample. A full disk costs the next reader time, nothing else."""
        try:
            sample = self.kind.read(self.root, named, plan=self.plan, mapped=self.mapped)
        except UnreadableError as error:
            return error
        with contextlib.suppress(OSError):
            self.cache.put(key, sample)
        return sample


def read_samples(
    decoder: Decoder, names: Sequence[str], *, workers: int
) -> Iterator[tuple[int, Sample | UnreadableError]]:
    """Number and content of each of ``names``, known ones first; the order says nothing.

    Args:
        decoder: how.
        names: what the samples table names.
        workers: most processes at a time.
    """
    missing: list[tuple[int, str]] = []
    for number, named in enumerate(names):
        found = decoder.look_up(named)
        if isinstance(found, UnreadableError):
            yield number, found
        elif found[1] is not None:
            yield number, found[1]
        else:
            missing.append((number, found[0]))
    began, todo = time.monotonic(), len(missing)
    while missing:
        number, key = missing.pop()
        yield number, decoder.decode(key, names[number])
        each = (time.monotonic() - began) / (todo - len(missing))
        if workers > 1 and len(missing) > 1 and each * len(missing) > WORTH_PROCESSES:
            yield from _in_processes(decoder, names, missing, workers=min(workers, len(missing)))
            return


def _in_processes(
    decoder: Decoder, names: Sequence[str], missing: Sequence[tuple[int, str]], *, workers: int
) -> Iterator[tuple[int, Sample | UnreadableError]]:
    """The other processes take seconds to start and come from the beginning; this one decodes from the end."""
    left, sent = deque(missing), deque[tuple[int, str, Future[Sample | UnreadableError]]]()
    try:
        with _pool(workers - 1) as pool:
            while left or sent:
                while left and len(sent) < IN_FLIGHT * (workers - 1):
                    number, key = left[0]
                    sent.append((number, key, pool.submit(decoder.decode, key, names[number])))
                    left.popleft()
                if sent[0][2].done() or not left:
                    result = sent[0][2].result()
                    yield sent.popleft()[0], result
                else:
                    number, key = left.pop()
                    yield number, decoder.decode(key, names[number])
    except BrokenProcessPool:  # one was killed, for want of memory perhaps: go on alone
        for number, key in [*((number, key) for number, key, _ in sent), *left]:
            yield number, decoder.decode(key, names[number])


def _pool(workers: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start, initargs=(os.getpid(),))


def _start(parent: int) -> None:
    """One thread a process (there is one for each core), and none outlives its parent."""
    end_with_parent()
    if os.getppid() != parent:  # it ended before the signal was asked for
        os._exit(1)
    import torch  # some kinds resample with it

    torch.set_num_threads(1)
