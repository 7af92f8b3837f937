"""What crosses between coordinator and site: a JSON header and named arrays, nothing else.

A request names the study by hash, the round and the digest of its arrays; a reply carries a status, a code from a
fixed list and, when ok, arrays or aggregate results. Free text never leaves a site.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl_shared.results import Curve, EvaluationRow
from fl_shared.toml import Section

Arrays = Mapping[str, NDArray[np.generic]]
"""Parameter name (``fusion.…``, ``heads.…``, ``encoders.ecg.…``) -> array."""

MAX_ARRAY_BYTES = 2**31
WIRE_DTYPES = frozenset({"float32", "int64"})  # int64: counters of a few layers; never floats of other widths


class Code(StrEnum):
    """Why a site did not answer with a result (the only text that a failure may carry)."""

    NOT_APPROVED = "study-not-approved"
    WRONG_ROLE = "role-forbids-training"
    BAD_REQUEST = "malformed-request"
    WRONG_SCHEMA = "arrays-do-not-fit-the-study"
    INITIAL_DIFFERS = "initial-model-differs"
    NO_PRIVACY_FORBIDDEN = "site-requires-privacy"
    BUDGET = "privacy-budget-exhausted"
    LEDGER = "privacy-ledger-refuses"
    DATA = "site-data-rejected"
    TOO_FEW = "cohort-too-small"
    TRAINER = "trainer-failed"
    NOT_FINITE = "update-not-finite"
    EGRESS = "egress-refused"
    DEADLINE = "site-deadline"
    BUSY = "site-busy"
    UNREACHABLE = "runtime-unreachable"


class Request(Section):
    """What the coordinator asks of a site.

    hello: who are you, and is this study approved; train: one round from the arrays of the shared groups;
    encoders: release the local encoders (study permitting); evaluate: judge the arrays on this site's patients.
    """

    kind: Literal["hello", "train", "encoders", "evaluate"]
    study: str
    round: int = 0
    base: str = ""  # digest of the arrays sent along
    initial: str = ""  # digest of the whole initial model, so that local encoders start from the same weights


class Reply(Section):
    """What a site answers."""

    status: Literal["ok", "refused", "failed"]
    code: Code | None = None
    site: str
    role: Literal["train", "external"] | None = None
    package: str = ""
    approved: bool = False
    epsilon: float | None = None
    evaluation: tuple[EvaluationRow, ...] = ()
    curves: tuple[Curve, ...] = ()


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
