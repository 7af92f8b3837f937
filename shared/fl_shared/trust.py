"""What a study's privacy rests on: who must be trusted for what, one plain sentence each, for officers and reports."""

from __future__ import annotations

from typing import Literal

UNITS = {"patient": "one patient", "site": "one hospital"}

OPEN = (
    "Nothing bounds what the shared model tells of a patient: every participant and every reader of the model is "
    "trusted not to look."
)
LOCAL = (
    "For the bound on what training tells of {unit} a hospital trusts its own installed software alone: the whole "
    "noise is added before anything leaves, so neither the coordinator nor another hospital needs to be trusted."
)
DISTRIBUTED = (
    "The bound on what training tells of {unit} holds for the sum over the hospitals that answer, not for one "
    "hospital's update: the coordinator is trusted to follow the protocol and to pass on their keys unchanged.",
    "Every hospital that answers is trusted to add its part of the noise and to tell it to nobody; it knows its own "
    "part, so the bound is weaker against itself.",
)
METRICS = "Metrics on held-out patients are outside the bound on one hospital: they are released as such."
PLAIN = (
    "The coordinator sees every hospital's update by itself: it is trusted with what an update, as it leaves, may tell "
    "of that hospital."
)
SECURE = (
    "The coordinator sees the sum of the hospitals' updates alone, as long as it passes on their keys unchanged and "
    "fewer than a third of the hospitals help it.",
    "No update can be checked by itself under its mask: every hospital is trusted not to spoil the sum.",
)


def trust(
    *,
    mode: Literal["patient", "site", "none"],
    aggregation: Literal["plain", "secure"],
    noise: Literal["local", "distributed"],
) -> tuple[str, ...]:
    """The sentences of a study's privacy section."""
    if mode == "none":
        bound: tuple[str, ...] = (OPEN,)
    else:
        said = (LOCAL,) if noise == "local" else DISTRIBUTED
        bound = (*(text.format(unit=UNITS[mode]) for text in said), *((METRICS,) if mode == "site" else ()))
    return (*bound, *((PLAIN,) if aggregation == "plain" else SECURE))
