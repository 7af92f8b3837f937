"""What a check of the machine found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check: what was found, and how to mend it when it is not right."""

    check: str
    status: Literal["ok", "warn", "fail"]
    found: str
    mend: str = ""


def ok(check: str, found: str) -> Finding:
    """It is right."""
    return Finding(check=check, status="ok", found=found)


def warn(check: str, found: str, mend: str) -> Finding:
    """It works, but somebody should look."""
    return Finding(check=check, status="warn", found=found, mend=mend)


def fail(check: str, found: str, mend: str) -> Finding:
    """The site cannot join or train before it is mended."""
    return Finding(check=check, status="fail", found=found, mend=mend)
