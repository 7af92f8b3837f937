"""Stock FedAvg over four hospitals; the end of each round and the final weights go to ``result.json``."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import uci_work
from flwr.app import Array, ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study."""
    ends: list[float] = []

    def note_time(_round: int, _arrays: ArrayRecord) -> MetricRecord | None:
        ends.append(time.monotonic())
        return None

    weight, bias = uci_work.initial()
    everyone = len(uci_work.HOSPITALS)
    strategy = FedAvg(fraction_evaluate=0.0, min_train_nodes=everyone, min_available_nodes=everyone)
    result = strategy.start(
        grid,
        ArrayRecord({"weight": Array(weight), "bias": Array(bias)}),
        num_rounds=int(context.run_config["rounds"]),
        timeout=300,
        evaluate_fn=note_time,
    )
    found = {
        "seconds": [later - sooner for sooner, later in pairwise(ends)],
        "weight": result.arrays["weight"].numpy().tolist(),
        "bias": result.arrays["bias"].numpy().tolist(),
    }
    part = Path(str(context.run_config["folder"])) / "result.part"
    part.write_text(json.dumps(found))
    part.rename(part.with_suffix(".json"))
