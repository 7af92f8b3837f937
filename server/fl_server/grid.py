"""The fleet over Flower's Grid: sites are named by the register of node keys, never by what a reply claims."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import cast

from flwr.app import Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from pydantic import ValidationError

from fl_server.fleet import Answer, Arrived, Missing, Question
from fl_shared import parcel
from fl_shared.pacing import pause
from fl_shared.wire import Reply, Request, from_npy, to_npy

SHORTEST, LONGEST = 0.15, 1.0  # seconds between questions to SuperLink; Flower's own Grid waits 3
TYPES = {"train": "train", "learning": "evaluate", "evaluate": "evaluate"}  # everything else is a query
REASONS = {
    ErrorCode.LOAD_CLIENT_APP_EXCEPTION: "server-code-refused",
    ErrorCode.CLIENT_APP_RAISED_EXCEPTION: "clientapp-error",
    ErrorCode.MESSAGE_UNAVAILABLE: "reply-incomplete",
    ErrorCode.REPLY_MESSAGE_UNAVAILABLE: "reply-incomplete",
    ErrorCode.NODE_UNAVAILABLE: "node-gone",
    ErrorCode.CLIENT_APP_CRASHED: "clientapp-killed",
}
"""Flower's error codes in words; its error texts come from the site and are dropped unread."""


class GridFleet:
    """`fl_server.fleet.Fleet` over a Flower Grid.

    Args:
        grid: Flower's Grid (deployment or simulation).
        names: node id -> site where the Grid itself knows no names (simulation).
    """

    def __init__(self, grid: Grid, *, names: Mapping[int, str] | None = None) -> None:
        self._grid = grid
        self._names = names

    def _online(self) -> dict[str, int]:
        """Connected sites -> node id."""
        if self._names is not None:
            return {self._names[node]: node for node in self._grid.get_node_ids() if node in self._names}
        nodes = cast("list[NodeInfo]", self._grid.get_nodes())
        return {node.name: node.node_id for node in nodes if node.name}

    def hello(
        self, requests: Mapping[str, Request], *, deadline: float, arrived: Arrived
    ) -> Mapping[str, Answer | Missing]:
        """See `Fleet.hello`."""
        began = time.monotonic()
        end = began + deadline
        found: dict[str, Answer | Missing] = {}
        pending: dict[str, str] = {}
        while (waiting := [s for s in requests if s not in found]) and time.monotonic() < end:
            online = self._online()
            ready = {s: online[s] for s in waiting if s in online and s not in pending.values()}
            pending |= self._push({s: (requests[s], {}) for s in ready}, ready)
            found |= self._pull(pending, arrived)
            if len(found) < len(requests):
                self._pause(began)
        asked = set(pending.values())
        return found | {
            s: Missing(reason="no-reply" if s in asked else "not-connected") for s in requests if s not in found
        }

    def ask(
        self, questions: Mapping[str, Question], *, deadline: float, arrived: Arrived
    ) -> Mapping[str, Answer | Missing]:
        """See `Fleet.ask`."""
        began = time.monotonic()
        end = began + deadline
        online = self._online()
        found: dict[str, Answer | Missing] = {s: Missing(reason="not-connected") for s in questions if s not in online}
        pending = self._push({s: q for s, q in questions.items() if s in online}, online)
        while pending and time.monotonic() < end:
            found |= self._pull(pending, arrived)
            if pending:
                self._pause(began)
        return found | {site: Missing(reason="no-reply") for site in pending.values()}

    def _pause(self, began: float) -> None:
        time.sleep(pause(time.monotonic() - began, shortest=SHORTEST, longest=LONGEST))

    def _push(self, questions: Mapping[str, Question], nodes: Mapping[str, int]) -> dict[str, str]:
        """Send; message id -> site. What several sites get is encoded once (and stored once: same content, same id)."""
        if not questions:
            return {}
        parcels: dict[int, bytes] = {}
        contents: dict[tuple[str, int], RecordDict] = {}
        messages = []
        for site, (request, arrays) in questions.items():
            key = request.model_dump_json(), id(arrays)
            if id(arrays) not in parcels:
                parcels[id(arrays)] = parcel.pack({name: to_npy(array) for name, array in arrays.items()})
            if key not in contents:
                contents[key] = parcel.to_shared_records(key[0], parcels[id(arrays)])
            messages.append(
                Message(contents[key], nodes[site], TYPES.get(request.kind, "query"), group_id=str(request.round))
            )
        ids = list(self._grid.push_messages(messages))
        return {key: site for key, site in zip(ids, questions, strict=True) if key}

    def _pull(self, pending: dict[str, str], arrived: Arrived) -> dict[str, Answer | Missing]:
        """Collect what has come; each site's first answer counts and leaves ``pending``."""
        if not pending:
            return {}
        answers: dict[str, Answer | Missing] = {}
        for message in self._grid.pull_messages(list(pending)):
            site = pending.pop(message.metadata.reply_to_message_id, None)
            if site is not None:
                answers[site] = _read(message)
                arrived(site)
        return answers


def _read(message: Message) -> Answer | Missing:
    if message.has_error():
        return Missing(reason=REASONS.get(message.error.code, "flower-error"))
    try:
        body, parts = parcel.from_records(message.content)
        reply = Reply.model_validate_json(body)
        arrays = {name: from_npy(data) for name, data in parts.items()}
    except (ValidationError, ValueError, TypeError):
        return Missing(reason="unreadable-reply")
    return reply, arrays
