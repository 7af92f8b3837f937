"""Run by test_kill_points.py: a site's service in processes that kill themselves at a chosen durable operation.

``python killed_site.py FOLDER`` imports everything once and then forks one life a line of its input: a JSON object
``{"folder", "link", "at", "torn"}``. A life connects to the UNIX socket ``link``, counts what it does to files of the
site's state and dies by SIGKILL before operation number ``at`` (never, when null); with ``torn`` an append that is
being written loses its second half first, as in a power cut. All but the trainer is the product's own code.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fl_client.payment import Payments  # noqa: F401 - imported before the forks
from fl_client.service import SiteService
from fl_shared.accounting import epsilon
from fl_shared.budget import budget
from fl_shared.results import EvaluationRow, Findings
from fl_shared.site import load_site
from fl_shared.study import load_study
from fl_shared.wire import digest

SITE = """schema = 1
name = "drum_tower"
roles = ["train"]
[modalities.ehr]
kind = "table"
[tasks.death.columns]
value = "died"
[privacy]
epsilon_cap = 10.0
"""
STUDY = """schema = 1
name = "kills"
seed = 7
[sites.drum_tower]
role = "train"
patients = 200
[tasks.death]
type = "binary"
[modalities.ehr]
kind = "table"
fields = ["age"]
[training]
rounds = 3
steps = 3
batch = 20
encoders = "local"
[privacy]
mode = "patient"
epsilon = 8.0
[rounds]
quorum = 1
deadline = 20.0
[evaluation]
salt = "saltsaltsalt"
"""
SHAPES = {
    "fusion.proj.weight": (30, 40),
    "heads.death.bias": (1,),
    "encoders.ehr.weight": (20, 20),
    "adapters.ehr.weight": (20,),
}
INITIAL = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()}
FRAME = struct.Struct(">II")  # bytes of the JSON, bytes of the arrays


def send(link: socket.socket, text: str, arrays: dict[str, bytes], *, before: Callable[[str], None] = lambda _: None):
    """One frame. ``before`` is told of two moments: before anything is sent, and when half of it is."""
    head = json.dumps([text, [[name, len(data)] for name, data in arrays.items()]]).encode()
    body = b"".join(arrays.values())
    frame = FRAME.pack(len(head), len(body)) + head + body
    before("send")
    link.sendall(frame[: len(frame) // 2])
    before("half sent")
    link.sendall(frame[len(frame) // 2 :])


def receive(link: socket.socket) -> tuple[str, dict[str, bytes]] | None:
    """A whole frame; None when the other side has gone before its end."""
    if (sizes := _exactly(link, FRAME.size)) is None:
        return None
    head, body = FRAME.unpack(sizes)
    if (data := _exactly(link, head + body)) is None:
        return None
    text, parts = json.loads(data[:head])
    arrays, start = {}, head
    for name, size in parts:
        arrays[name] = data[start : start + size]
        start += size
    return text, arrays


def _exactly(link: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        try:
            part = link.recv(size - len(data))
        except ConnectionError:
            return None
        if not part:
            return None
        data += part
    return data


class Points:
    """Counts the operations of this process on files below ``state``; dies before number ``at``."""

    def __init__(self, state: Path, *, log: Path, at: int | None, torn: bool) -> None:
        self._state, self._log, self._at, self._torn = str(state), log, at, torn
        self._count = 0
        self._real = {name: getattr(os, name) for name in ("fsync", "replace", "rename", "write", "unlink")}
        for name in self._real:
            setattr(os, name, self._wrapped(name))

    def pass_by(self, what: str, *, tear: Callable[[], None] | None = None) -> None:
        """One point; what is torn (half-written) at it, if anything can be."""
        self._count += 1
        with self._log.open("a") as log:
            log.write(f"{what}\n")
        if self._count == self._at:
            if self._torn and tear is not None:
                tear()
            os.kill(os.getpid(), signal.SIGKILL)

    def _wrapped(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def call(first: Any, *rest: Any, **named: Any) -> Any:
            path = str(Path(f"/proc/self/fd/{first}").readlink()) if isinstance(first, int) else os.fspath(first)
            if path.startswith(self._state) and path != str(self._log):
                self.pass_by(f"{name} {Path(path).name}", tear=lambda: self._tear(name, first, path, *rest))
            # the process is killed, not the machine: waiting for the disk would only cost time
            return None if name == "fsync" else real(first, *rest, **named)

        return call

    def _tear(self, name: str, first: Any, path: str, *rest: Any) -> None:
        """Half of what is not durable yet reaches the disk: of an append, half of its last line."""
        if name == "write":
            self._real["write"](first, rest[0][: len(rest[0]) // 2])
        elif name == "fsync" and path.endswith(".jsonl"):
            data = Path(path).read_bytes()
            last = data[:-1].rfind(b"\n") + 1
            os.truncate(path, last + (len(data) - last) // 2)


class NoisyPool:
    """A light trainer: the base and noise from the operating system's entropy; writes down every draw."""

    def __init__(self, points: Points, draws: Path) -> None:
        self._points, self._draws = points, draws

    def load(self, study):
        """Nothing to load."""

    def schema(self, study):
        return {name: (shape, "float32") for name, shape in SHAPES.items()}

    def initial_digest(self, study):
        return digest(INITIAL)

    def train(self, study, *, round, base, sigma, **_):
        self._points.pass_by("before noise")
        noise = np.random.default_rng()
        update = {n: (a + sigma * noise.normal(size=a.shape)).astype(np.float32) for n, a in base.items()}
        with self._draws.open("a") as file:
            file.write(json.dumps({"round": round, "base": digest(base), "update": digest(update)}) + "\n")
        self._points.pass_by("after noise")
        return update

    def encoders(self, study, **_):
        return {name: np.ones(SHAPES[name], np.float32) for name in SHAPES if study.is_local(name)}

    def evaluate(self, study, **_):
        value = round(0.5 + np.random.default_rng().random() / 3, 4)  # another number each time: a repeat must not show
        row = EvaluationRow(site="drum_tower", role="train", task="death", label="", modalities="all",
                            model="federated", metric="auroc", value=value, ci_low=None, ci_high=None, n=50,
                            events=20)  # fmt: skip
        return Findings(evaluation=(row,))

    def close(self):
        """Nothing was started."""


def live(folder: Path, plan: dict[str, Any]) -> None:
    """One life of the site."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(plan["link"])
        points = Points(folder / "state", log=folder / "points.log", at=plan["at"], torn=plan["torn"])
        service = SiteService(load_site(folder), NoisyPool(points, folder / "draws.jsonl"))
        while (asked := receive(link)) is not None:
            send(link, *service.handle(*asked), before=points.pass_by)


def main() -> None:
    """Fork a life a line; tell how each ended."""
    folder = Path(sys.argv[1])
    study = load_study(folder / "study.toml")
    event = budget(study, "drum_tower", delta=study.privacy.delta).training
    for rounds in range(1, 5):  # the accountant's first sums take a second: computed once, before the forks
        epsilon([event._replace(steps=event.steps // study.training.rounds * rounds)], delta=study.privacy.delta)
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            code = 1
            try:
                live(Path(json.loads(line)["folder"]), json.loads(line))
                code = 0
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
