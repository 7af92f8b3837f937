"""The connected sites as the life of a study sees them: names, questions, answers and deadlines.

The coordinator implements `Fleet` over Flower's Grid; the tests with a fake in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from fl_shared.wire import Arrays, Reply, Request


@dataclass(frozen=True, kw_only=True)
class Missing:
    """No usable answer. ``reason`` is a short fixed word of the transport, never text that a site wrote."""

    reason: str


Question: TypeAlias = tuple[Request, Arrays]
Answer: TypeAlias = tuple[Reply, Arrays]
Arrived: TypeAlias = Callable[[str], None]
"""Called with a site's name the moment its answer is in: for live progress only."""


class Fleet(Protocol):
    """Sites by name (the coordinator's own register of node keys, never what a reply claims)."""

    def hello(
        self, requests: Mapping[str, Request], *, deadline: float, arrived: Arrived
    ) -> Mapping[str, Answer | Missing]:
        """Wait until every named site is connected and has answered its request, or ``deadline`` seconds have passed.

        Unlike `ask` this waits for sites that are not connected yet and asks each as soon as it is. Every name is in
        the result: `Missing` (``not-connected``, ``no-reply``) when it did not answer in time. Sites that the study
        does not name are never asked.
        """
        ...

    def ask(
        self, questions: Mapping[str, Question], *, deadline: float, arrived: Arrived
    ) -> Mapping[str, Answer | Missing]:
        """Ask the named sites at once and return within ``deadline`` seconds, earlier when all have answered.

        Every name is in the result, one answer each: a site that is not connected, died, or answered late, twice or
        unreadably is `Missing`. A late answer is discarded, never handed to a later call. Does not raise for a site.
        """
        ...
