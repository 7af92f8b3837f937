"""What a round sends, and how much of its time is not training.

    python tests/benchmarks/round_cost.py runs/my_study         # bytes of a finished run
    python tests/benchmarks/round_cost.py --live --rounds 6     # a synthetic study on real processes: bytes, time

Bytes: array bytes of the groups that the study shares, against all weights, from the committed safetensors; each
training site gets them and sends them back every round. Time: a round lasts from one commit to the next; training is
the slowest site's ``fl_client_fit_duration_seconds``, read from the sites' own metrics; the rest is everything else
(Flower, polling, egress gate, validation, aggregation, commit). Round 1, which also loads data and model, is left out.
On one host the sites share its cores, so training is slower here than on machines of their own and the share smaller:
compare the seconds of the rest as well.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import sys
import tempfile
import threading
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from deployed import harness
from rich.console import Console

from fl_client.approval import approve
from fl_client.keys import ensure_key
from fl_client.training.cluster import shared_ray
from fl_server import demo, superlink
from fl_server.checkpoint import MANIFEST, MODEL
from fl_server.events import follow
from fl_server.launch import load_prepared, prepare
from fl_server.watch import submit_and_wait
from fl_shared.site import load_site
from fl_shared.study import Study, load_study
from fl_sites.study_file import write_model
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.plans import QUICK

SITES = ("alpha", "beta", "gamma", "delta")  # the last one judges
Row = dict[str, object]


def array_bytes(path: Path) -> dict[str, int]:
    """Parameter group -> bytes of its arrays in a safetensors file (from its header alone)."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    found: dict[str, int] = defaultdict(int)
    for name, array in header.items():
        if name != "__metadata__":
            start, end = array["data_offsets"]
            found[name.split(".", 1)[0]] += end - start
    return dict(found)


def sent(folder: Path) -> Row:
    """Bytes a round of a run: its shared groups against all weights."""
    study = load_prepared(folder)
    first = folder / "rounds" / "round_0001"
    groups, shared = array_bytes(folder / "rounds" / "round_0000" / MODEL), array_bytes(first / MODEL)
    sites = json.loads((first / MANIFEST).read_text())["sites"]
    ways = 2 * len(sites)  # there and back
    part, whole = sum(shared.values()) * ways, sum(groups.values()) * ways
    return {
        "study": study.name,
        "encoders": study.training.encoders,
        "shared": "+".join(sorted(shared)),
        "training sites": len(sites),
        "MB a round": part / 1e6,
        "MB with all weights": whole / 1e6,
        "times less": whole / part,
    }


@dataclass
class Fits:
    """Follows a run and reads, at every committed round, each site's sum and count of training seconds."""

    sites: Mapping[str, Path]  # training site -> state folder
    ends: list[float] = field(default_factory=list)  # of the rounds, seconds since 1970
    read: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(lambda: [(0.0, 0.0)]))

    def watch(self, events: Path, stop: threading.Event) -> None:
        """Until ``stop``."""
        for event in follow(events, stop=stop.is_set):
            if event.kind == "round_committed":
                self.ends.append(event.time)
                for name, state in self.sites.items():
                    self.read[name].append(scrape(state))

    def rounds(self) -> list[Row]:
        """Wall and slowest training of rounds 2 and later.

        A fit that ended between a commit and the reading is counted already; interpolating the sums over the counts
        splits it off.

        Raises:
            RuntimeError: A site's metrics could not be read after every round, or it did not train in one.
        """
        if missing := [name for name in self.sites if self.read[name][-1][0] < len(self.ends)]:
            raise RuntimeError(f"fewer trainings than rounds were seen at {', '.join(missing)}")
        numbers = np.arange(len(self.ends) + 1)
        read = [np.array(pairs).T for pairs in self.read.values()]  # counts and sums grow together
        fits = [np.diff(np.interp(numbers, counts, sums)) for counts, sums in read]
        slowest = np.max(fits, axis=0)[1:]
        walls = [later - sooner for sooner, later in pairwise(self.ends)]
        return [line(str(i + 2), wall, float(fit)) for i, (wall, fit) in enumerate(zip(walls, slowest, strict=True))]


def scrape(state: Path) -> tuple[float, float]:
    """(count, sum) of a site's training seconds."""
    port = int((state / "metrics.port").read_text())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = dict(re.findall(r"^fl_client_fit_duration_seconds_(count|sum) (\S+)$", text, re.MULTILINE))
    return float(found["count"]), float(found["sum"])


def line(name: str, wall: float, fit: float) -> Row:
    """A row of the table of rounds."""
    return {
        "round": name,
        "wall s": wall,
        "slowest training s": fit,
        "rest s": wall - fit,
        "not training": 1 - fit / wall,
    }


def variation(folder: Path, *, rounds: int, steps: int, batch: int) -> Path:
    """The synthetic cohort's study with other sizes."""
    body = load_study(folder / "study.toml").model_dump(mode="json", by_alias=True, exclude_none=True)
    body["name"] = "round_cost"
    body["training"] |= {"rounds": rounds, "steps": steps, "batch": batch}
    path = folder.parent / "study.toml"
    write_model(path, Study.model_validate(body), header="SYNTHETIC: made by round_cost.py.")
    return path


def live(folder: Path, *, patients: int, rounds: int, steps: int, batch: int) -> tuple[Row, list[Row]]:
    """Run the study over real processes: bytes, and time of every round."""
    harness.use_benchmarks_as_path()
    synthesize(folder / "sites", sites=SITES, patients=patients, seed=0, modalities=QUICK)
    path = variation(folder / "sites", rounds=rounds, steps=steps, batch=batch)
    study, home, console = load_study(path), superlink.Home(path=folder / "coordinator"), Console(quiet=True)
    sites = {name: load_site(folder / "sites" / name) for name in sorted(study.sites)}
    fits = Fits({name: sites[name].state_dir for name in study.train_sites})
    with ExitStack() as stack:
        stack.enter_context(superlink.running(home))
        ray = stack.enter_context(shared_ray(folder / "ray", cpus=len(sites)))
        clients = {}
        for name, site in sites.items():
            approve(site, path)
            superlink.register(home, site=name, public_key=ensure_key(site)[1])
            context = demo.client(name, sites_dir=folder / "sites", home=home, extra=ray, log=folder / "logs")
            clients[name] = stack.enter_context(context)
        run = prepare(path, runs=folder / "runs")
        demo.await_online(home, clients, console=console)
        done = threading.Event()
        watcher = threading.Thread(target=fits.watch, args=(run / "events.jsonl", done), daemon=True)
        watcher.start()
        try:
            submit_and_wait(home, path, run, console=console)
        finally:
            done.set()
            watcher.join()
    return sent(run), fits.rounds()


def total(rounds: Sequence[Row]) -> Row:
    """All rounds together."""
    walls, fits = ([float(str(r[key])) for r in rounds] for key in ("wall s", "slowest training s"))
    return line("all", sum(walls), sum(fits))


def main() -> int:
    """Print the bytes of each run, and the time of a live one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_DIR", help="folders of finished runs")
    parser.add_argument("--live", action="store_true", help="run a synthetic study of three training sites and a judge")
    parser.add_argument("--patients", type=int, default=150, help="a site (default: 150)")
    parser.add_argument("--rounds", type=int, default=6, help="default: 6")
    parser.add_argument("--steps", type=int, default=20, help="a round (default: 20)")
    parser.add_argument("--batch", type=int, default=32, help="default: 32")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    if not options.runs and not options.live:
        parser.error("give a RUN_DIR or --live")
    if options.live and options.rounds < 2:
        parser.error("--rounds: at least 2, since round 1 is left out")
    bytes_ = [sent(folder) for folder in options.runs]
    rounds: list[Row] = []
    if options.live:
        sizes = {name: getattr(options, name) for name in ("patients", "rounds", "steps", "batch")}
        with tempfile.TemporaryDirectory(prefix="round-cost-") as folder:
            row, rounds = live(Path(folder), **sizes)
            bytes_, rounds = [*bytes_, row], [*rounds, total(rounds)]
    load = f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    harness.show({"bytes": bytes_, "rounds": rounds}, form=options.format, notes=[load] if options.live else [])
    return 0


if __name__ == "__main__":
    sys.exit(main())
