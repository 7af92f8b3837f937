"""Reads the files of a modality: from the cache where they are known, else decoded, by several processes when long."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
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
    """A file that crashes a decoder library is found by going on with one process, and set aside."""
    left = deque(missing)
    while left:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start) as pool:
            futures = [(number, pool.submit(decoder.decode, key, names[number])) for number, key in left]
            try:
                for number, future in futures:
                    result = future.result()
                    left.popleft()
                    yield number, result
            except BrokenProcessPool:
                if workers == 1:
                    number, _ = left.popleft()
                    yield number, UnreadableError("decoder-crashed", names[number])
                workers = 1


def _start() -> None:
    """One thread a process (there is one for each core), and none outlives its parent."""
    import torch  # some kinds resample with it

    end_with_parent()
    torch.set_num_threads(1)
