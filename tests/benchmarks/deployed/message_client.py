"""A stock ClientApp that reaches its trainer through Ray: it imports torch and ray, connects, sends back what it gets.

The call to an actor is left out, to the stock app's advantage.
"""

from __future__ import annotations

import json
import os

import ray
import torch  # noqa: F401 - a trainer's ClientApp handles tensors
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl_shared import parcel

app = ClientApp()


@app.train()
def train(message: Message, _: Context) -> Message:
    """Connect and answer."""
    ray.init(address=os.environ["CONSILIUM_RAY_ADDRESS"], namespace="stock", log_to_driver=False, logging_level="error")
    _, arrays = parcel.from_records(message.content)
    return Message(parcel.to_records(json.dumps({"status": "ok", "site": "stock"}), arrays), reply_to=message)
