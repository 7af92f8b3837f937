"""A kind of sample file for tests of cache and parallel reading: one number a file."""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fl_client.data.cache import SampleCache
from fl_client.data.fill import Decoder
from fl_client.data.findings import UnreadableError
from fl_client.data.kinds import Sample
from fl_shared.site import EmbeddingFiles
from fl_shared.study import ModalityPlan

PLAN = ModalityPlan(kind="embedding", features=3)
MAPPED = EmbeddingFiles(kind="embedding", column="path")


@dataclass(frozen=True)
class ToyKind:
    version: str = "1"
    seconds: float = 0.0
    log: Path | None = None

    def layout(self, plan):
        return {"x": ((3,), "float32")}

    def files(self, root, named, mapped):
        if not (root / named).is_file():
            raise UnreadableError("file-missing", named)
        return [root / named]

    def read(self, root, named, *, plan, mapped):
        text = (root / named).read_text()
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {named}\n")
        time.sleep(self.seconds)
        if text == "crash":
            if multiprocessing.parent_process() is not None:
                os._exit(3)
            text = "2"
        if text == "bad":
            raise UnreadableError("toy-bad", named)
        return Sample(arrays={"x": np.full(3, float(text), dtype=np.float32)}, repairs=("rounded",))


def toy_decoder(root: Path, *, seconds: float = 0.0) -> Decoder:
    """Reads the numbers in ``root``, logging which process read which."""
    kind, cache = ToyKind(log=root / "log", seconds=seconds), SampleCache(root / "cache", max_bytes=10**9)
    return Decoder(kind=kind, plan=PLAN, mapped=MAPPED, root=root, cache=cache)


def hammer(folder: Path, seed: int) -> None:
    cache = SampleCache(folder, max_bytes=20_000)
    draw = np.random.default_rng(seed)
    for _ in range(150):
        number = int(draw.integers(20))
        key, sample = f"{number:02x}" * 32, Sample(arrays={"x": np.full(500, number, dtype=np.float32)})
        found = cache.get(key)
        assert found is None or (found.arrays["x"] == number).all()
        cache.put(key, sample)
        if draw.random() < 0.05:
            cache.trim()
