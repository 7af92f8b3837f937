"""ServerApp of ``message_cost.py``: asks one site after the other and reads its processes' CPU time (one host)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from deployed.harness import PLAN, write_result
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from measure import tree_cpu

from fl_server.fleet import Missing
from fl_server.grid import GridFleet
from fl_shared.wire import Request

SETTLE = 2.0  # seconds: a stock ClientApp still ends after its reply has arrived
DEADLINE = 120.0
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """``plan.json``: ``{"sites": {name: pid}, "warmup", "messages", "bytes"}``."""
    folder = Path(str(context.run_config["run"]))
    plan = json.loads((folder / PLAN).read_text())
    fleet = GridFleet(grid)
    write_result(folder, {site: cost(fleet, site, pid, plan) for site, pid in plan["sites"].items()})


def cost(fleet: GridFleet, site: str, pid: int, plan: Mapping[str, Any]) -> dict[str, float]:
    """CPU seconds a message of the processes below ``pid``, and the median seconds until the answer."""
    arrays = {"fusion.weight": np.ones(int(plan["bytes"]) // 4, np.float32)}
    for number in range(plan["warmup"]):
        exchange(fleet, site, arrays, number)
    time.sleep(SETTLE)
    before = tree_cpu(pid)
    waits = [exchange(fleet, site, arrays, number) for number in range(plan["messages"])]
    time.sleep(SETTLE)
    return {"cpu": (tree_cpu(pid) - before) / plan["messages"], "wait": median(waits)}


def exchange(fleet: GridFleet, site: str, arrays: Mapping[str, Any], number: int) -> float:
    """One message; seconds until its answer."""
    began = time.monotonic()
    request = Request(kind="train", study="benchmark", round=number)
    answer = fleet.ask({site: (request, arrays)}, deadline=DEADLINE, arrived=lambda _: None)[site]
    if isinstance(answer, Missing) or answer[0].status != "ok":
        raise RuntimeError(f"{site} did not answer: {answer}")
    return time.monotonic() - began
