"""The ClientApp: hands bytes to the site runtime and its answer back. It reads no data, imports no torch, no ray.

It runs in a sandbox and is the only code of the site that meets what the coordinator sent; everything that it can
ask for is decided behind `Exchange`, by the site's own installed code.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fl_client import channel
from fl_shared import parcel

Exchange = Callable[[Context, str, Mapping[str, bytes]], tuple[str, Mapping[str, bytes]]]
"""(Flower's context, JSON of a Request, name -> ``.npy`` bytes) -> (JSON of a Reply, name -> ``.npy`` bytes)."""


def make_app(exchange: Exchange) -> ClientApp:
    """A ClientApp whose every message goes through ``exchange``; no exception text ever leaves with a reply."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        request, sent = parcel.from_records(message.content)
        return Message(parcel.to_records(*exchange(context, request, sent)), reply_to=message)

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


app = make_app(over_socket)
