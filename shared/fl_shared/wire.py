"""What crosses between coordinator and site: a JSON header and named arrays, nothing else.

A request names the study by hash, the round and the digest of its arrays; a reply carries a status, a code from a
fixed list and, when ok, arrays or aggregate results. Free text never leaves a site.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, StringConstraints

from fl_shared.results import Findings
from fl_shared.toml import Section

Arrays = Mapping[str, NDArray[np.generic]]
"""Parameter name (``fusion.…``, ``heads.…``, ``encoders.ecg.…``) -> array."""

MAX_ARRAY_BYTES = 2**31
WIRE_DTYPES = frozenset({"float32", "int64", "uint8"})
"""int64: masked updates, counters of a few layers; uint8: keys and sealed shares; never floats of other widths."""


class Code(StrEnum):
    """Why a site did not answer with a result (the only text that a failure may carry)."""

    NOT_APPROVED = "study-not-approved"
    WRONG_ROLE = "role-forbids-training"
    BAD_REQUEST = "malformed-request"
    WRONG_SCHEMA = "arrays-do-not-fit-the-study"
    INITIAL_DIFFERS = "initial-model-differs"
    MODEL_DIFFERS = "judged-model-differs"
    NO_PRIVACY_FORBIDDEN = "site-requires-privacy"
    BUDGET = "privacy-budget-exhausted"
    LEDGER = "privacy-ledger-refuses"
    PROVENANCE = "provenance-forbids-release"
    DATA = "site-data-rejected"
    TOO_FEW = "cohort-too-small"
    TRAINER = "trainer-failed"
    NOT_FINITE = "update-not-finite"
    EGRESS = "egress-refused"
    DEADLINE = "site-deadline"
    BUSY = "site-busy"
    UNREACHABLE = "runtime-unreachable"
    WITHDRAWN = "site-withdrew"
    SECURE = "secure-aggregation-refused"


Digest = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")]
Kind = Literal[
    "hello", "statistics", "keys", "shares", "train", "unmask", "learning", "encoders", "recalibrate", "evaluate"
]  # fmt: skip

ModelName = Literal["federated", "recalibrated"]


class Mark(Section):
    """The last row of a site's ledger: its number and hash. It grows only, so that a ledger put back is found."""

    seq: int = Field(ge=0)
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")


class Request(Section):
    """What the coordinator asks of a site.

    hello: who are you, and is this study approved; statistics: the study's counts, before the first round; train: one
    round from the arrays of the shared groups (under secure aggregation after keys and shares, and before unmask);
    learning: judge the arrays of a committed round on held-out patients, briefly (`fl_shared.learning`); encoders:
    release the local encoders (study permitting); recalibrate: what the intercepts are refitted from;
    evaluate: judge the arrays on this site's patients.
    """

    kind: Kind
    study: str = Field(max_length=64)
    round: int = Field(default=0, ge=0, lt=2**31)
    base: Digest = ""  # digest of the arrays sent along
    initial: Digest = ""  # digest of the whole initial model, so that local encoders start from the same weights
    model: ModelName = "federated"  # evaluate: under which name results are told
    ledger: Mark | None = None  # the last mark that this site has told: its ledger must still hold that row


class Reply(Findings):
    """What a site answers; findings: of a judged model."""

    status: Literal["ok", "refused", "failed"]
    code: Code | None = None
    site: str
    role: Literal["train", "external"] | None = None
    package: str = ""
    approved: bool = False
    epsilon: float | None = None
    ledger: Mark | None = None


def to_npy(array: NDArray[np.generic]) -> bytes:
    """An array as ``.npy`` bytes (no pickle)."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array, order="C"), allow_pickle=False)
    return buffer.getvalue()


def from_npy(data: bytes) -> NDArray[np.generic]:
    """Read ``.npy`` bytes; refuses pickled content, other dtypes and oversized arrays.

    Raises:
        ValueError: the bytes are not such an array.
    """
    if len(data) > MAX_ARRAY_BYTES:
        raise ValueError(f"array of {len(data)} bytes exceeds {MAX_ARRAY_BYTES}")
    array: NDArray[np.generic] = np.load(io.BytesIO(data), allow_pickle=False)
    if str(array.dtype) not in WIRE_DTYPES:
        raise ValueError(f"dtype {array.dtype} is not allowed on the wire")
    return array


def digest(arrays: Arrays) -> str:
    """SHA-256 over names, dtypes, shapes and bytes, in name order."""
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.asarray(arrays[name], order="C")
        sha.update(f"{name}\0{array.dtype.str}\0{array.shape}\0".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()
