"""Ways of doing the same, each in a process of its own, step by step in turn: a drifting machine slows all alike.

A child process makes itself ready, then does a step whenever it is told to (`steps_wanted`) and answers with the CPU
seconds of all its threads: what else runs on the machine does not count. At the end it tells the largest resident set
that it had since its first step, less what it had after its imports.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median


class Child:
    """A process that does one way's steps: ``script`` with ``words`` as its options. Made when it is ready for them."""

    def __init__(self, script: Path, *words: str) -> None:
        command = [sys.executable, str(script), *words]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()  # so that two never make themselves ready at once: that may take more memory than the steps

    def step(self, number: int) -> float:
        """Its CPU seconds."""
        print(number, file=self._process.stdin, flush=True)
        return self._answer()

    def end(self) -> float:
        """Peak of memory, MB."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        peak = self._answer()
        self._process.wait()
        return peak

    def _answer(self) -> float:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise RuntimeError(f"{self._process.args} ended")
        return float(json.loads(line))


def in_turn(ways: Mapping[str, Child], *, steps: int, warm: int) -> dict[str, list[float]]:
    """CPU seconds of each way's steps, done in turn, every other time in reverse; the first ``warm`` do not count."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warm + steps):
        for name in reversed(ways) if number % 2 else ways:
            seconds = ways[name].step(number)
            if number >= warm:
                found[name].append(seconds)
    return found


def ratio(first: Sequence[float], second: Sequence[float]) -> tuple[float, float, float]:
    """Median of first / second, pair by pair, and the ends of its 95 % interval (of few pairs: least and largest)."""
    ratios = sorted(a / b for a, b in zip(first, second, strict=True))
    cut, tail = 0, 0.5 ** len(ratios)
    while tail <= 0.025:
        cut += 1
        tail += math.comb(len(ratios), cut) * 0.5 ** len(ratios)
    cut = max(cut - 1, 0)
    return median(ratios), ratios[cut], ratios[-1 - cut]


def shown(first: Sequence[float], second: Sequence[float]) -> str:
    """Medians, for people."""
    return f"{1e3 * median(first):.4g} against {1e3 * median(second):.4g} ms, {len(first)} pairs"


def steps_wanted(ready: float) -> Iterator[int]:
    """In a child process: numbers of the steps to do. What is done with each is timed.

    Args:
        ready: MB that do not count (`resident`).
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what setting up left behind is no part of the work
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far (proc(5))
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        start = time.process_time()
        yield int(line)
        print(json.dumps(time.process_time() - start), file=answers, flush=True)
    print(json.dumps(resident("VmHWM") - ready), file=answers, flush=True)


def resident(key: str = "VmRSS") -> float:
    """MB of this process: ``VmRSS`` at present, ``VmHWM`` at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024
