"""The ClientApp: hands bytes to the site runtime and its answer back. It reads no data, imports no torch, no ray.

It runs in a sandbox and is the only code of the site that meets what the coordinator sent; everything that it can
ask for is decided behind `Exchange`, by the site's own installed code.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_client import channel

Exchange = Callable[[Context, str, Mapping[str, bytes]], tuple[str, Mapping[str, bytes]]]
"""(Flower's context, JSON of a Request, name -> ``.npy`` bytes) -> (JSON of a Reply, name -> ``.npy`` bytes)."""


def make_app(exchange: Exchange) -> ClientApp:
    """A ClientApp whose every message goes through ``exchange``; no exception text ever leaves with a reply."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        body, arrays = exchange(context, str(message.content["request"]["json"]), _bytes(message.content))
        content = RecordDict({"reply": ConfigRecord({"json": body}), "arrays": ArrayRecord(_arrays(arrays))})
        return Message(content, reply_to=message)

    app.query()(answer)
    app.train()(answer)
    app.evaluate()(answer)
    return app


def over_socket(_: Context, message: str, arrays: Mapping[str, bytes]) -> tuple[str, Mapping[str, bytes]]:
    """Exchange over the site runtime's UNIX socket (named by the executor's environment)."""
    place = Path(os.environ["CONSILIUM_SOCKET"])
    try:
        token = Path(os.environ["CONSILIUM_TOKEN_FILE"]).read_text(encoding="ascii")
        return channel.call(place, token, message, arrays, timeout=float(os.environ["CONSILIUM_TIMEOUT"]))
    except (channel.ChannelError, OSError) as error:
        print(json.dumps({"event": "runtime-unreachable", "error": str(error)}), flush=True)  # stays at the site
        reply = {"status": "failed", "code": "runtime-unreachable", "site": os.environ["CONSILIUM_SITE"]}
        return json.dumps(reply), {}


def _bytes(content: RecordDict) -> dict[str, bytes]:
    record = content.array_records.get("arrays", ArrayRecord())
    return {name: array.data for name, array in record.items()}


def _arrays(arrays: Mapping[str, bytes]) -> dict[str, Array]:
    return {name: _array(data) for name, data in arrays.items()}


def _array(data: bytes) -> Array:
    """Wrap ``.npy`` bytes unread: only their header is parsed."""
    stream = io.BytesIO(data)
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return Array(dtype=str(dtype), shape=tuple(shape), stype="numpy.ndarray", data=data)


app = make_app(over_socket)
