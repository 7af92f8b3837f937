"""Our deployment on the UCI work of ``uci_work.py``: what a round, a run, its CPU and its memory cost.

    python tests/benchmarks/uci_product.py              # our deployment; trains in one Ray actor a site
    python tests/benchmarks/uci_product.py --no-ray     # the same, trains in the sites' own processes
    python tests/benchmarks/uci_product.py compare      # stock Flower, then both of these, one after the other

Real processes on loopback: SuperLink with TLS and node keys, and for each of the four hospitals a runtime, a SuperNode
and the prefork executor in its sandbox; one shared Ray with a persistent actor for each hospital. 10 rounds of 100
updates, mean weighted by patients; no federated evaluation. Measured with ``measure.py`` around everything, start and
end included: seconds a round (mean of rounds 2 and later), wall, CPU of all processes (of it: until all sites are
connected; from then to the result), peak PSS. The model must be the
plain loop's to 1e-6. The NVFLARE row of ``compare`` was measured elsewhere and is there for orientation only.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import uci_work
from measure import measure, tree_cpu

TOLERANCE = 1e-6
PHASES = "phases.json"
STOPPING = 240.0  # seconds for start and end around the rounds
NVFLARE = {"s a round": 2.6, "wall s": 74.0, "CPU s": 34.0, "peak PSS GB": 2.0, "accuracy": 0.7295, "AUROC": 0.8455}
Row = dict[str, object]


def deploy(folder: Path, *, rounds: int, timeout: float, ray: bool) -> None:
    """Start the deployment, run, stop everything (``folder`` holds the hospitals' tables)."""
    from deployed import harness  # here: the measuring process needs no Flower

    from fl_client.training.cluster import shared_ray
    from fl_server import superlink

    harness.use_benchmarks_as_path()
    home, logs = superlink.Home(path=folder / "coordinator"), folder / "logs"
    sizes = {name: len(uci_work.Hospital.read(folder / f"{name}.npz").train_y) for name in uci_work.HOSPITALS}
    with ExitStack() as stack:
        stack.enter_context(superlink.running(home))
        variables = stack.enter_context(shared_ray(folder / "ray", cpus=len(sizes))) if ray else {}
        processes = {}
        for name in sizes:
            site = harness.add_site(home, folder / "sites" / name)
            more = str(folder / f"{name}.npz"), "ray" if ray else "here"
            command = harness.site_command("uci_site", site, home, *more)
            context = harness.spawned(command, log=logs / f"{name}.log", env=variables)
            processes[name] = stack.enter_context(context)
        harness.await_online(home, processes, folder=folder)
        joined = tree_cpu(os.getpid())
        plan = {"rounds": rounds, "sizes": sizes}
        server, client = "deployed.uci_server:app", "fl_client.app:app"
        harness.conduct(home, folder, plan=plan, server=server, client=client, timeout=timeout)
        (folder / PHASES).write_text(json.dumps({"joined": joined, "rounds": tree_cpu(os.getpid()) - joined}))


def product(folder: Path, *, rounds: int, timeout: float, ray: bool) -> Row:
    """Measure our deployment and judge its model."""
    hospitals = uci_work.load_hospitals()
    for name, hospital in hospitals.items():
        hospital.save(folder / f"{name}.npz")
    work = [sys.executable, __file__, "--inside", str(folder), "--rounds", str(rounds), "--timeout", str(timeout)]
    log = folder / "deployment.log"
    load = os.getloadavg()[0]
    usage = measure([*work, *([] if ray else ["--no-ray"])], timeout=timeout + STOPPING, log=log)
    if usage.status:
        raise RuntimeError(f"the deployment failed:\n{log.read_text()[-6000:]}")
    found = json.loads((folder / "result.json").read_text())
    found |= json.loads((folder / PHASES).read_text())
    return row(f"Consilium, {'a Ray actor a site' if ray else 'no Ray'}", found, asdict(usage), load, hospitals)


def stock(folder: Path, *, rounds: int, timeout: float) -> Row:
    """Measure the stock deployment of ``stock_flower_uci`` (with its own way of stopping)."""
    from stock_flower_uci.run import benchmark

    usage = benchmark(folder, rounds=rounds, timeout=timeout)
    found = json.loads((folder / "result.json").read_text())
    return row("stock Flower, torch ClientApp", found, usage, usage["load_before"], uci_work.load_hospitals())


def row(
    what: str,
    found: Mapping[str, Any],
    usage: Mapping[str, Any],
    load: object,
    hospitals: Mapping[str, uci_work.Hospital],
) -> Row:
    """A line of the table; the last column is the largest difference from the plain loop's weights."""
    weights = np.asarray(found["weight"], np.float32), np.asarray(found["bias"], np.float32)
    plain = uci_work.run_plain(hospitals, rounds=len(found["seconds"]))
    judged = uci_work.evaluate(weights, hospitals)
    return {
        "deployment": what,
        "s a round": mean(found["seconds"][1:] or found["seconds"]),
        "wall s": usage["wall"],
        "CPU s": usage["cpu"],
        "till joined": found.get("joined"),
        "rounds": found.get("rounds"),
        "peak PSS GB": usage["peak_pss"] / 1e9,
        "accuracy": judged["accuracy"],
        "AUROC": judged["auroc"],
        "difference": max(float(np.abs(one - other).max()) for one, other in zip(weights, plain, strict=True)),
        "load before": load,
    }


def notes(rows: Sequence[Row], *, rounds: int) -> list[str]:
    """What the table cannot say."""
    said = [f"{rounds} rounds, mean of rounds 2 to {rounds}; {os.cpu_count()} cores; one after the other"]
    wrong = [
        str(r["deployment"]) for r in rows if r["difference"] is not None and float(str(r["difference"])) > TOLERANCE
    ]
    return [
        *said,
        f"WRONG MODEL: {', '.join(wrong)}" if wrong else f"all models equal the plain loop's to {TOLERANCE:g}",
    ]


def main() -> int:
    """Run and print; exit status 1 when a model differs from the plain loop's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("product", "compare"), default="product")
    parser.add_argument("--no-ray", action="store_true", help="train in the sites' own processes")
    parser.add_argument("--rounds", type=int, default=uci_work.ROUNDS)
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for the rounds of one deployment")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    limits = {"rounds": options.rounds, "timeout": options.timeout}
    if options.inside:
        deploy(options.inside, **limits, ray=not options.no_ray)
        return 0
    from deployed import harness

    rows: list[Row] = []
    comparing = options.what == "compare"
    if comparing:
        with tempfile.TemporaryDirectory(prefix="uci-stock-") as folder:
            rows.append(stock(Path(folder), **limits))
    for ray in (True, False) if comparing else (not options.no_ray,):
        with tempfile.TemporaryDirectory(prefix="uci-product-") as folder:
            rows.append(product(Path(folder), **limits, ray=ray))
    said = notes(rows, rounds=options.rounds)
    if comparing:
        blank = dict.fromkeys(rows[0])
        rows.append(blank | {"deployment": "NVFLARE 2.9 (measured in another run)"} | NVFLARE)
    harness.show({"rows": rows}, form=options.format, notes=said)
    return 1 if "WRONG" in said[-1] else 0


if __name__ == "__main__":
    sys.exit(main())
