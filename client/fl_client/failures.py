"""From what went wrong at a site to the one code that the coordinator may see."""

from __future__ import annotations

from pydantic import ValidationError

from fl_client.egress import EgressRefusedError
from fl_client.inbound import HostileInputError
from fl_client.privacy.provenance import ProvenanceError
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.wire import Code

FAILED = frozenset({Code.TRAINER, Code.DATA, Code.DEADLINE, Code.BUSY, Code.NOT_FINITE})
"""Codes of failures; all others are refusals."""

_EXITS = {
    ExitCode.NOT_APPROVED: Code.NOT_APPROVED,
    ExitCode.PRIVACY: Code.LEDGER,
    ExitCode.DATA: Code.DATA,
    ExitCode.SITE: Code.DATA,
}


class RefusedError(Exception):
    """The request is refused with this code."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.value)
        self.code = code


def code_of(error: Exception) -> Code:
    """The code of an error; anything unknown is the trainer's failure."""
    match error:
        case RefusedError() | EgressRefusedError():
            return error.code
        case HostileInputError():
            return Code.WRONG_SCHEMA
        case ProvenanceError():
            return Code.PROVENANCE
        case ConsiliumError(code=ExitCode.PRIVACY) if any("bring epsilon to" in f.problem for f in error.faults):
            return Code.BUDGET
        case ConsiliumError():
            return _EXITS.get(error.code, Code.TRAINER)
        case TimeoutError():
            return Code.DEADLINE
        case FloatingPointError():
            return Code.NOT_FINITE
        case ValidationError():
            return Code.BAD_REQUEST
        case _:
            return Code.TRAINER
