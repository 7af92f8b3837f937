"""Wall time, CPU time and peak memory of a piece of work and everything that it starts (Linux).

    usage = measure(["fl-server", "simulate", "study.toml"], timeout=600)
    python tests/benchmarks/measure.py --timeout 600 -- fl-server simulate study.toml

Every process counts, also one that has ended or detached itself: the work runs below a keeper process that adopts
orphans (PR_SET_CHILD_SUBREAPER), reaps all of them and then reads RUSAGE_CHILDREN. One thing escapes that sum: children
of a process that ignores SIGCHLD (Ray's raylet may) are never waited for. Their CPU time is taken from the last sample
before they ended, at most ``interval`` seconds too early.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_TICK = os.sysconf("SC_CLK_TCK")
_GRACE = 15.0  # seconds between SIGTERM and SIGKILL for what the work leaves behind


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a piece of work used.

    Attributes:
        wall: Seconds until the work's own process ended.
        cpu: User + system seconds of all its processes until the last one ended.
        peak_pss: Largest sum of proportional set sizes of all processes alive at a sample, bytes.
        processes: Processes seen in samples (short ones between two samples are missed here, not in ``cpu``).
        unread: Memory readings that the kernel refused: when not 0, ``peak_pss`` is too low.
        left: Processes that had to be ended after the work.
        status: Exit status of the work (negative: signal).
    """

    wall: float
    cpu: float
    peak_pss: int
    processes: int
    unread: int
    left: int
    status: int


def measure(
    work: Sequence[str | Path] | Callable[[], object],
    *,
    timeout: float,
    interval: float = 0.25,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    log: Path | None = None,
) -> Usage:
    """Run ``work`` and measure it with all its descendants.

    Args:
        work: A command line, or a callable that runs in a forked child (start no threads before).
        timeout: Seconds after which everything is ended.
        interval: Seconds between samples.
        env: Environment of a command line; this process's own when absent.
        cwd: Folder of a command line.
        log: File that takes the output of a command line; inherited when absent.

    Raises:
        TimeoutError: The work did not end in time.
        RuntimeError: The keeper process failed.
    """
    reading, writing = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.close(reading)
        status = 1
        try:
            usage = _Keeper(interval=interval).run(lambda: _start(work, env=env, cwd=cwd, log=log), timeout=timeout)
            os.write(writing, json.dumps(asdict(usage) if usage else None).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(keeper, 0)
    if not answer:
        raise RuntimeError("the keeper process of the measurement failed; its traceback is on stderr")
    if (found := json.loads(answer)) is None:
        raise TimeoutError(f"the work did not end within {timeout:g} s")
    return Usage(**found)


def tree_cpu(root: int) -> float:
    """CPU seconds so far of a process, its living or unreaped descendants, and every ended child that was waited for.

    Lost: children whose parent ignores SIGCHLD, and orphans that left the tree.
    """
    own = _stat(root)
    return sum(process.cpu for _, process in _descendants(root)) + (own.cpu if own else 0.0)


def _start(
    work: Sequence[str | Path] | Callable[[], object],
    *,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    log: Path | None,
) -> int:
    if not callable(work):
        with log.open("wb") if log else contextlib.nullcontext() as output:
            return subprocess.Popen(
                [str(word) for word in work], env=env, cwd=cwd, stdout=output, stderr=subprocess.STDOUT if log else None
            ).pid
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            work()
            status = 0
        except BaseException:  # the traceback is all that is left of this process
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child


@dataclass(frozen=True, kw_only=True)
class _Process:
    parent: int
    started: int
    cpu: float  # seconds of the process itself and of the children that it waited for


@dataclass(kw_only=True)
class _Keeper:
    interval: float
    reaped: set[int] = field(default_factory=set)
    seen: set[tuple[int, int]] = field(default_factory=set)
    alive: dict[int, _Process] = field(default_factory=dict)
    ignoring: set[int] = field(default_factory=set)  # processes whose children nobody waits for
    unwaited: float = 0.0
    peak: int = 0
    unread: int = 0

    def run(self, start: Callable[[], int], *, timeout: float) -> Usage | None:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        signal.signal(signal.SIGTERM, _stop)
        began = time.monotonic()
        status: int | None = None
        left = 0
        try:
            work = start()
            due = began
            while status is None and time.monotonic() - began < timeout:
                if time.monotonic() >= due:
                    self.sample()
                    due = time.monotonic() + self.interval
                time.sleep(0.01)
                status = self.reap().get(work)
            wall = time.monotonic() - began
        finally:
            left = self.end_all()
        if status is None:
            return None
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Usage(
            wall=wall,
            cpu=used.ru_utime + used.ru_stime + self.unwaited,
            peak_pss=self.peak,
            processes=len(self.seen),
            unread=self.unread,
            left=left,
            status=status,
        )

    def reap(self) -> dict[int, int]:
        ended: dict[int, int] = {}
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                ended[found[0]] = os.waitstatus_to_exitcode(found[1])
        self.reaped |= ended.keys()
        return ended

    def sample(self) -> None:
        before, self.alive = self.alive, dict(_descendants(os.getpid()))
        self.seen |= {(pid, process.started) for pid, process in self.alive.items()}
        for pid, process in before.items():
            gone = pid not in self.alive or self.alive[pid].started != process.started
            if gone and pid not in self.reaped and process.parent in self.ignoring:
                self.unwaited += process.cpu
        self.ignoring = {pid for pid in self.alive if _ignores_children(pid)}
        self.peak = max(self.peak, sum(self.pss(pid) for pid in self.alive))

    def pss(self, pid: int) -> int:
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            return 0
        except PermissionError:
            self.unread += 1
            return 0
        return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)

    def end_all(self) -> int:
        """End what the work left behind, by process id, and wait for it. Returns how many there were."""
        self.reap()
        left = dict(_descendants(os.getpid()))
        for kind in (signal.SIGTERM, signal.SIGKILL):
            for pid in dict(_descendants(os.getpid())):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, kind)
            deadline = time.monotonic() + _GRACE
            while time.monotonic() < deadline:
                self.sample()
                self.reap()
                if not dict(_descendants(os.getpid())):
                    return len(left)
                time.sleep(0.05)
        return len(left)


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _stat(pid: int) -> _Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    words = text.rpartition(")")[2].split()  # the name before it may hold spaces; words[0] is field 3 of proc(5)
    return _Process(parent=int(words[1]), started=int(words[19]), cpu=sum(map(int, words[11:15])) / _TICK)


def _descendants(root: int) -> Iterator[tuple[int, _Process]]:
    everyone = {int(entry.name): _stat(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdecimal()}
    children: dict[int, list[int]] = {}
    for pid, process in everyone.items():
        if process is not None:
            children.setdefault(process.parent, []).append(pid)
    ahead = list(children.get(root, []))
    while ahead:
        pid = ahead.pop()
        ahead += children.get(pid, [])
        if (process := everyone[pid]) is not None:
            yield pid, process


def _ignores_children(pid: int) -> bool:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    mask = next((line.split()[1] for line in text.splitlines() if line.startswith("SigIgn:")), "0")
    return bool(int(mask, 16) >> (signal.SIGCHLD - 1) & 1)


def main() -> int:
    """Measure a command line and print the usage as JSON."""
    parser = argparse.ArgumentParser(description="Wall time, CPU time and peak memory of a command and its children.")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds (default: 3600)")
    parser.add_argument("--interval", type=float, default=0.25, help="seconds between samples (default: 0.25)")
    parser.add_argument("command", nargs="+", help="after --")
    options = parser.parse_args()
    usage = measure(options.command, timeout=options.timeout, interval=options.interval)
    print(json.dumps(asdict(usage)))
    return usage.status if usage.status >= 0 else 128 - usage.status


if __name__ == "__main__":
    sys.exit(main())
