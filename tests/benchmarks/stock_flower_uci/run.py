"""Stock Flower 1.41 deployment on the UCI work: SuperLink, four SuperNodes, a ClientApp that imports torch.

    python tests/benchmarks/stock_flower_uci/run.py --output stock.json

Real processes on free loopback ports, Flower's defaults throughout (isolation, polling), its own ``FLWR_HOME`` in a
temporary folder. Only training messages: no federated evaluation. Ports are plain text on loopback: never for patients.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
BIN = Path(sys.executable).parent
CONNECTION = "bench"


def free_ports(count: int) -> list[int]:
    """``count`` different ports that were free a moment ago."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def environment(folder: Path) -> dict[str, str]:
    """Flower without telemetry, update check or dependency installation; `uci_work` installed at every hospital."""
    return os.environ | {
        "FLWR_HOME": str(folder / "flwr"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(HERE.parent),
    }


def wait_for_port(port: int, *, seconds: float) -> None:
    """Wait until something listens."""
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing listens on port {port} after {seconds:g} s")
        time.sleep(0.1)


def deploy(folder: Path, *, rounds: int, timeout: float) -> None:
    """Start the deployment, submit the run, wait for its result, stop everything in order."""
    link, *nodes = free_ports(5)
    env = environment(folder)
    (folder / "flwr").mkdir()
    (folder / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "{CONNECTION}"\n\n'
        f'[superlink.{CONNECTION}]\naddress = "127.0.0.1:{link}"\ninsecure = true\n'
    )
    processes: list[subprocess.Popen[bytes]] = []

    def start(name: str, *arguments: str) -> None:
        with (folder / f"{name}.log").open("wb") as log:
            processes.append(subprocess.Popen([BIN / arguments[0], *arguments[1:]], env=env, stdout=log, stderr=log))

    try:
        database = str(folder / "superlink.db")
        start("superlink", "flower-superlink", "--insecure", "--port", str(link), "--database", database)
        wait_for_port(link, seconds=60)
        for number, port in enumerate(nodes):
            where = ["--superlink", f"127.0.0.1:{link}", "--port", str(port)]
            start(f"node{number}", "flower-supernode", "--insecure", *where, "--node-config", f"partition-id={number}")
        config = f'folder="{folder}" rounds={rounds}'
        submit = [str(BIN / "flwr"), "run", str(HERE / "app"), CONNECTION, "-c", config, "--format", "json"]
        subprocess.run(submit, env=env, check=True, timeout=120, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + timeout
        while not (folder / "result.json").exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"no result after {timeout:g} s; logs in {folder}")
            time.sleep(0.2)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=60)


def benchmark(folder: Path, *, rounds: int, timeout: float) -> dict[str, object]:
    """Prepare the tables, measure the deployment, judge its model and compare it with the plain loop."""
    import numpy as np
    import uci_work
    from measure import measure

    hospitals = uci_work.load_hospitals()
    for name, hospital in hospitals.items():
        hospital.save(folder / f"{name}.npz")
    inside = [sys.executable, __file__, "--inside", folder, "--rounds", str(rounds), "--timeout", str(timeout)]
    load = os.getloadavg()[0]
    usage = measure([str(word) for word in inside], timeout=timeout + 240, log=folder / "deployment.log")
    if usage.status:
        raise RuntimeError(f"the deployment failed: {(folder / 'deployment.log').read_text()[-2000:]}")
    found = json.loads((folder / "result.json").read_text())
    weights = np.asarray(found["weight"], np.float32), np.asarray(found["bias"], np.float32)
    plain = uci_work.run_plain(hospitals, rounds=rounds)
    difference = max(float(np.abs(one - other).max()) for one, other in zip(weights, plain, strict=True))
    return {
        "what": "stock Flower deployment, ClientApp with torch",
        "rounds": rounds,
        "seconds_a_round": sum(found["seconds"]) / len(found["seconds"]),
        **asdict(usage),
        **uci_work.evaluate(weights, hospitals),
        "largest_difference_from_plain_loop": difference,
        "load_before": load,
        "cores": os.cpu_count(),
    }


def main() -> None:
    """Run the benchmark and print (or write) its figures as JSON."""
    parser = argparse.ArgumentParser(description="Measure a stock Flower deployment on the UCI work.")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--timeout", type=float, default=900, help="seconds for the rounds (default: 900)")
    parser.add_argument("--output", type=Path, help="JSON file for the figures; stdout when absent")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        deploy(options.inside, rounds=options.rounds, timeout=options.timeout)
        return
    with tempfile.TemporaryDirectory(prefix="stock-flower-") as folder:
        text = json.dumps(benchmark(Path(folder), rounds=options.rounds, timeout=options.timeout), indent=2)
    if options.output:
        options.output.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
