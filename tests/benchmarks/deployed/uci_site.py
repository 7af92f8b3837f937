"""``python -m deployed.uci_site FOLDER SUPERLINK CA TABLE ray|here``: a hospital that trains on its UCI table.

``ray``: in one Ray actor that lives as long as this process and keeps the table loaded; ``here``: in this process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import uci_work
from deployed.site_process import serve

from fl_shared.wire import Reply, Request, from_npy, to_npy

Train: TypeAlias = Callable[[uci_work.Weights, int], uci_work.Weights]
DEADLINE = 300.0  # seconds of one training


class Trainer:
    """Holds a hospital's table and trains on it."""

    def __init__(self, name: str, table: str) -> None:
        self._name = name
        self._hospital = uci_work.Hospital.read(Path(table))

    def train(self, weights: uci_work.Weights, round_number: int) -> uci_work.Weights:
        """One round."""
        return uci_work.train(weights, self._hospital, name=self._name, round_number=round_number)


class Uci:
    """Answers a training request."""

    def __init__(self, name: str, train: Train) -> None:
        self._name, self._train = name, train

    def handle(self, request_json: str, arrays: dict[str, bytes], /) -> tuple[str, dict[str, bytes]]:
        """See `fl_client.runtime.Service`."""
        request = Request.model_validate_json(request_json)
        weight, bias = (from_npy(arrays[key]).astype(np.float32) for key in ("heads.weight", "heads.bias"))
        weight, bias = self._train((weight, bias), request.round)
        reply = Reply(status="ok", site=self._name).model_dump_json()
        return reply, {"heads.weight": to_npy(weight), "heads.bias": to_npy(bias)}


def in_actor(name: str, table: str) -> Train:
    """Training in a persistent actor of the Ray that the environment names."""
    import ray

    ray.init(os.environ["CONSILIUM_RAY_ADDRESS"], namespace=f"uci-{name}", log_to_driver=False, logging_level="error")
    actor = ray.remote(num_cpus=1)(Trainer).remote(name, table)
    return lambda weights, number: ray.get(actor.train.remote(weights, number), timeout=DEADLINE)


def main() -> None:
    """Serve until SIGTERM."""
    folder, superlink, certificates, table, where = sys.argv[1:]
    name = Path(folder).name
    train = in_actor(name, table) if where == "ray" else Trainer(name, table).train
    serve(Path(folder), Uci(name, train), superlink=superlink, certificates=Path(certificates))


if __name__ == "__main__":
    main()
