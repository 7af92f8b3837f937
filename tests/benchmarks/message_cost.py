"""CPU seconds that one message costs a site: our thin ClientApp against a stock one, over the same SuperLink.

    python tests/benchmarks/message_cost.py --messages 10

thin: what ``fl-client`` starts (runtime, SuperNode, prefork executor in the sandbox), with a service that sends back
what it gets. stock: ``flower-supernode`` as installed, whose ``flower-superexec`` starts a ``flwr-clientapp`` for every
message; its ClientApp imports torch and ray and connects to a running Ray, as a straightforward app would. Counted are
all processes of the site from the end of the warm-up on, ended children included; Ray's own processes are not (to the
stock app's advantage), nor is the coordinator. Real processes on loopback, TLS and node keys on both sides.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from deployed import harness

from fl_client.keys import ensure_key
from fl_client.training.cluster import shared_ray
from fl_server import superlink
from fl_shared.processes import free_port
from fl_shared.site import Site

TARGET = 3.0
TIMEOUT = 1800.0


def stock_node(site: Site, home: superlink.Home) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of a stock SuperNode (isolation "subprocess", its default)."""
    bin_ = Path(sys.executable).parent
    command = [
        *(str(bin_ / "flower-supernode"), "--superlink", home.address(), "--root-certificates", str(home.ca)),
        *("--auth-supernode-private-key", str(ensure_key(site)[0]), "--port", str(free_port())),
    ]
    variables = {
        "FLWR_HOME": str(site.state_dir / "flwr"), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1", "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    return command, variables


def run(folder: Path, *, messages: int, warmup: int, size: int) -> dict[str, Any]:
    """Start everything, measure both sites one after the other; site -> ``cpu``, ``wait``."""
    harness.use_benchmarks_as_path()
    home, logs = superlink.Home(path=folder / "coordinator"), folder / "logs"
    with ExitStack() as stack:
        stack.enter_context(superlink.running(home))
        ray = stack.enter_context(shared_ray(folder / "ray", cpus=1))
        thin, stock = (harness.add_site(home, folder / "sites" / name) for name in ("thin", "stock"))
        ours = harness.site_command("message_site", thin, home)
        theirs, variables = stock_node(stock, home)
        processes = {
            "thin": stack.enter_context(harness.spawned(ours, log=logs / "thin.log", env={})),
            "stock": stack.enter_context(harness.spawned(theirs, log=logs / "stock.log", env=variables | ray)),
        }
        harness.await_online(home, processes, folder=folder)
        return harness.conduct(
            home, folder, server="deployed.message_server:app", client="deployed.message_client:app", timeout=TIMEOUT,
            plan={
                "sites": {name: process.pid for name, process in processes.items()},
                "warmup": warmup, "messages": messages, "bytes": size,
            },
        )  # fmt: skip


def rows(found: Mapping[str, Mapping[str, float]]) -> list[dict[str, object]]:
    """The table: what, CPU s a message, median s until the answer, thin CPU against it."""
    names = {"thin": "thin ClientApp, prefork, sandbox", "stock": "stock ClientApp, imports torch and ray"}
    return [
        {
            "a message through": text,
            "CPU s": found[name]["cpu"],
            "s to answer": found[name]["wait"],
            "CPU, times thin": found[name]["cpu"] / found["thin"]["cpu"],
        }
        for name, text in names.items()
    ]


def main() -> int:
    """Run and print; exit status 1 when the thin ClientApp does not save the factor it should."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=10, help="counted messages a site (default: 10)")
    parser.add_argument("--warmup", type=int, default=2, help="messages before them (default: 2)")
    parser.add_argument("--bytes", type=int, default=4096, help="array bytes a message, each way (default: 4096)")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="message-cost-") as folder:
        found = run(Path(folder), messages=options.messages, warmup=options.warmup, size=options.bytes)
    ratio = found["stock"]["cpu"] / found["thin"]["cpu"]
    met = "met" if ratio >= TARGET else "MISSED"
    load = f"{options.messages} messages; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"
    notes = [f"target: at least {TARGET:g} times less CPU a message: {met} ({ratio:.1f}); {load}"]
    harness.show({"rows": rows(found)}, form=options.format, notes=notes)
    return 0 if ratio >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
