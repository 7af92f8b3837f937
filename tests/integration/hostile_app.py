"""A hostile ServerApp: it asks sites for everything that no coordinator may have, and keeps whatever they answer.

Run by test_hostile.py through a real SuperLink, as any ServerApp. The run's folder holds the studies' hashes in
``attack.json`` and the initial model; ``answers.jsonl`` (text) and ``answers.bin`` (every byte of arrays) are the loot.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from safetensors.numpy import load

from fl_shared import parcel
from fl_shared.study import Study
from fl_shared.wire import Arrays, digest, to_npy

Attack: TypeAlias = tuple[str, str, str, dict[str, bytes]]
"""Name, type of the Flower message, JSON of the request, arrays."""

PATIENCE = 60.0  # seconds for one answer
KINDS = ("statistics", "keys", "shares", "train", "unmask", "encoders", "recalibrate", "evaluate")
app = ServerApp()


class Hostile:
    """Makes the requests; every one but for what is named is well-formed."""

    def __init__(self, folder: Path) -> None:
        self.study = Study.model_validate_json((folder / "study.json").read_text())
        self.plan: dict[str, Any] = json.loads((folder / "attack.json").read_text())
        self.initial = load((folder / "initial.safetensors").read_bytes())
        self.shared = {name: a for name, a in self.initial.items() if self.study.is_shared(name)}

    def ask(
        self, name: str, kind: str, arrays: Arrays | None = None, *, raw: str | None = None, **changes: Any
    ) -> Attack:
        """A request, with what is changed or added to its JSON."""
        arrays = {} if arrays is None else arrays
        body = {"kind": kind, "study": self.plan["study"], "round": 1, "base": digest(arrays)}
        body |= {"initial": digest(self.initial)} | changes
        text = json.dumps(body) if raw is None else raw
        return name, "train", text, {key: to_npy(array) for key, array in arrays.items()}

    def crafted(self, value: float) -> Arrays:
        """A model of one number in every weight."""
        return {name: np.full_like(a, value) for name, a in self.shared.items()}

    def memorising(self, seed: int) -> Arrays:
        """A model with huge random weights, so that its scores separate single patients."""
        rng = np.random.default_rng(seed)
        return {name: (a + 50 * rng.normal(size=a.shape)).astype(a.dtype) for name, a in self.shared.items()}

    def weights(self) -> Iterator[Attack]:
        """Raw encoder weights."""
        rounds = self.study.training.rounds
        yield self.ask("encoders before any round", "encoders", round=rounds)
        yield self.ask("encoders of an early round", "encoders", round=1)
        yield self.ask("encoders of round 10000", "encoders", round=10_000)
        yield self.ask("a round over all groups", "train", self.initial)
        only = {name: a for name, a in self.initial.items() if name.startswith("encoders.")}
        yield self.ask("a round over encoders alone", "train", only)

    def noiseless(self) -> Iterator[Attack]:
        """Gradients without noise, by fields that no request has."""
        for key, value in {
            "sigma": 0.0, "clip": 1e9, "privacy": {"mode": "none"}, "records": ["000001-1"],
            "schema": {"gradients": [[1], "float32"]},
        }.items():  # fmt: skip
            yield self.ask(f"a round with {key}", "train", self.shared, **{key: value})
        for kind in ("gradients", "predict"):
            yield self.ask(f"kind {kind}", kind, self.shared)

    def rounds(self) -> Iterator[Attack]:
        """Rounds that the study does not have, starts that are none."""
        for number in (10_000, 0, -1, self.study.training.rounds + 1, 2**63, "1"):
            yield self.ask(f"round {number!r}", "train", self.shared, round=number)
        yield self.ask("a digest that lies", "train", self.shared, base="0" * 64)
        yield self.ask("a path for a digest", "train", self.shared, base="../../../samples")
        yield self.ask("another initial model", "train", self.shared, initial="1" * 64)
        yield self.ask("a forged mark of the ledger", "train", self.shared, ledger={"seq": 1, "hash": "0" * 64})

    def studies(self) -> Iterator[Attack]:
        """Studies that nobody approved."""
        for identity in ("0" * 64, self.plan["unapproved"], "../approved/x", "", "*"):
            yield self.ask(f"study {identity[:12]!r}", "train", self.shared, study=identity)

    def broken(self) -> Iterator[Attack]:
        """Requests and arrays that are none."""
        for text in ("", "[]", "{" * 3000, '"' + "x" * 100_000 + '"'):
            yield self.ask(f"text {text[:8]!r}", "train", self.shared, raw=text)
        for name, value in (("NaN", np.nan), ("infinity", np.inf)):
            yield self.ask(f"a model of {name}", "evaluate", self.crafted(value))
        good = self.ask("", "train", self.shared)
        first = next(iter(self.shared))
        pickled = b"\x93NUMPY\x01\x00F\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n" + b"cos\nsystem\n"
        for what, data in (("pickle", pickled), ("nothing", b""), ("text", b"samples.csv")):
            yield f"an array of {what}", "train", good[2], {**good[3], first: data}

    def unplanned(self) -> Iterator[Attack]:
        """What this study does not do."""
        for kind in ("statistics", "keys", "shares", "unmask", "recalibrate"):
            yield self.ask(f"unplanned {kind}", kind, self.shared if kind == "recalibrate" else {})
        yield self.ask("unplanned statistics, round 0", "statistics", round=0)

    def metrics(self) -> Iterator[Attack]:
        """Many crafted models, to tell single patients by their metrics."""
        for number in range(self.study.training.rounds + 3):
            yield self.ask(f"crafted model {number}", "evaluate", self.memorising(number))
        yield self.ask("crafted model of huge numbers", "evaluate", self.crafted(3e38))
        yield self.ask("crafted model, recalibrated", "evaluate", self.memorising(99), model="recalibrated")

    def budget(self) -> Iterator[Attack]:
        """The same round from ever new starts."""
        for number in range(self.study.training.rounds + 3):
            yield self.ask(f"fresh start {number}", "train", self.memorising(number), round=1)
        yield self.ask("fresh start 0 again", "train", self.memorising(0), round=1)

    def external(self) -> Iterator[Attack]:
        """Whatever concerns training patients, at a site that only judges."""
        for kind in KINDS[:-1]:
            yield self.ask(f"external {kind}", kind, self.shared if kind in ("train", "recalibrate") else {})


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One attack a site at a time; all answers are kept."""
    folder = Path(str(context.run_config["run"]))
    hostile = Hostile(folder)
    lanes: dict[str, Iterator[Attack]] = {
        "alpha": iter([*hostile.weights(), *hostile.rounds(), *hostile.unplanned(), *hostile.budget()]),
        "beta": iter([*hostile.noiseless(), *hostile.studies(), *hostile.broken(), *hostile.metrics()]),
        "gamma": hostile.external(),
    }
    nodes = {node.name: node.node_id for node in grid.get_nodes()}
    waiting: dict[str, tuple[str, Attack, float]] = {}
    with (folder / "answers.jsonl").open("w") as told, (folder / "answers.bin").open("wb") as loot:
        while lanes or waiting:
            for site in [site for site in lanes if site not in {s for s, _, _ in waiting.values()}]:
                if (attack := next(lanes[site], None)) is None:
                    del lanes[site]
                else:
                    message = Message(_content(attack), nodes[site], attack[1])
                    waiting[next(iter(grid.push_messages([message])))] = site, attack, time.monotonic()
            for message in grid.pull_messages(list(waiting)):
                site, attack, _ = waiting.pop(message.metadata.reply_to_message_id)
                told.write(json.dumps({"site": site, "attack": attack[0]} | _read(message, loot)) + "\n")
            for key, (site, attack, since) in list(waiting.items()):
                if time.monotonic() - since > PATIENCE:
                    del waiting[key]
                    told.write(json.dumps({"site": site, "attack": attack[0], "text": "", "error": "no answer"}) + "\n")
            time.sleep(0.1)
        message = Message(RecordDict({"0": ConfigRecord({"json": 7})}), nodes["gamma"], "train")
        (reply,) = list(grid.send_and_receive([message], timeout=PATIENCE))
        told.write(json.dumps({"site": "gamma", "attack": "no parcel"} | _read(reply, loot)) + "\n")
    (folder / "done").touch()


def _content(attack: Attack) -> RecordDict:
    return parcel.to_records(attack[2], attack[3])


def _read(message: Message, loot: Any) -> dict[str, Any]:
    """Text and arrays of an answer, errors of Flower included: they come from the site."""
    if message.has_error():
        return {"text": "", "error": f"{message.error.code} {message.error.reason}"}
    text, parts = parcel.from_records(message.content)
    loot.write(b"".join(parts.values()))
    return {"text": text, "error": "", "arrays": sorted(parts)}
