"""ServerApp of ``uci_product.py``: FedAvg over the four hospitals through `GridFleet`."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import uci_work
from deployed.harness import PLAN, write_result
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_server.fleet import Missing
from fl_server.grid import GridFleet
from fl_shared.wire import Request, digest

DEADLINE = 300.0
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """``plan.json``: ``{"rounds", "sizes": {hospital: training patients}}``."""
    folder = Path(str(context.run_config["run"]))
    plan = json.loads((folder / PLAN).read_text())
    fleet, sizes = GridFleet(grid), plan["sizes"]
    weights, seconds = uci_work.initial(), []
    for number in range(1, plan["rounds"] + 1):
        began = time.monotonic()
        weights = one_round(fleet, weights, number, sizes)
        seconds.append(time.monotonic() - began)
    write_result(folder, {"seconds": seconds, "weight": weights[0].tolist(), "bias": weights[1].tolist()})


def one_round(fleet: GridFleet, weights: uci_work.Weights, number: int, sizes: dict[str, int]) -> uci_work.Weights:
    """Broadcast, train at every hospital, mean weighted by the declared numbers of patients (in float64)."""
    base = {"heads.weight": weights[0], "heads.bias": weights[1]}
    request = Request(kind="train", study="uci", round=number, base=digest(base))
    answers = fleet.ask(dict.fromkeys(sizes, (request, base)), deadline=DEADLINE, arrived=lambda _: None)
    updates = []
    for name in sizes:
        answer = answers[name]
        if isinstance(answer, Missing) or answer[0].status != "ok":
            raise RuntimeError(f"round {number}: {name} did not answer: {answer}")
        weight, bias = (answer[1][key].astype(np.float32) for key in base)
        updates.append((weight, bias))
    return uci_work.average(updates, list(sizes.values()))
