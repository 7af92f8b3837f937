"""A ClientApp as Flower's tutorials write it: it imports torch, loads its data and trains in its own process."""

from __future__ import annotations

from pathlib import Path

import torch
import uci_work
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """One round of local training."""
    name = uci_work.HOSPITALS[int(context.node_config["partition-id"])]
    hospital = uci_work.Hospital.read(Path(str(context.run_config["folder"])) / f"{name}.npz")
    state = message.content["arrays"].to_torch_state_dict()
    weights = state["weight"].numpy(), state["bias"].numpy()
    number = int(message.content["config"]["server-round"])
    weight, bias = uci_work.train(weights, hospital, name=name, round_number=number)
    content = RecordDict(
        {
            "arrays": ArrayRecord({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}),
            "metrics": MetricRecord({"num-examples": len(hospital.train_y)}),
        }
    )
    return Message(content=content, reply_to=message)
