"""Studies that this site withdrew from: ``state/withdrawn/<hash>.json``, read before every answer and every release.

While the record of a study lies there, nothing of it leaves, whatever is approved. Approving the study anew sets the
record aside (``<hash>.<n>.json``): that is a person's decision.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from fl_client.files import locked, private_dir, write_private
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.site import Site
from fl_shared.toml import Section

IDENTITY = re.compile(r"[0-9a-f]{64}")


class Withdrawal(Section):
    """What this site gave to a study before it withdrew; the reason stays here."""

    identity: str
    study: str  # its name, as approved
    role: Literal["train", "external"] | None
    rounds: tuple[int, ...]  # in which an update left, for as long as the study runs or is reported
    encoders: bool  # the local encoders left
    evaluations: int  # releases of metrics
    releases: int
    bytes: int
    first: str  # times of the first and the last release; empty when nothing left
    last: str
    reason: str
    time: str
    by: str

    def __str__(self) -> str:
        gave = f"rounds {', '.join(map(str, self.rounds))}" if self.rounds else "no round of training"
        return f"this site withdrew on {self.time[:10]}, having joined {gave}"


@contextmanager
def releasing(site: Site) -> Iterator[None]:
    """One release or one withdrawal at a time: what a withdrawal does not list can no longer leave.

    Raises:
        TimeoutError: another process holds on to it.
    """
    with locked(private_dir(site.state_dir) / "egress.lock"):
        yield


def is_withdrawn(site: Site, identity: str) -> bool:
    """Whether this site withdrew from the study of that identity; an unreadable record counts."""
    path = _path(site, identity)
    return path is not None and path.exists()


def withdrawal(site: Site, identity: str) -> Withdrawal | None:
    """The record, if this site withdrew.

    Raises:
        ConsiliumError: it is unreadable (exit code 16).
    """
    path = _path(site, identity)
    if path is None or not path.exists():
        return None
    try:
        return Withdrawal.model_validate_json(path.read_bytes())
    except ValidationError as error:
        mend = "Restore it from a backup; nothing of this study leaves meanwhile."
        fault = Fault(file=str(path), key="withdrawal", problem="unreadable", mend=mend)
        raise ConsiliumError("the record of a withdrawal is damaged", code=ExitCode.PRIVACY, faults=[fault]) from error


def keep(site: Site, record: Withdrawal) -> Path:
    """Write the record durably; from now on nothing of the study leaves. Call it within `releasing`."""
    path = private_dir(site.state_dir / "withdrawn") / f"{record.identity}.json"
    write_private(path, record.model_dump_json(indent=1).encode())
    return path


def set_aside(site: Site, identity: str) -> None:
    """Let the study in again; the record is kept under another name."""
    path = _path(site, identity)
    if path is not None and path.exists():
        earlier = len(list(path.parent.glob(f"{identity}.*.json")))
        path.rename(path.with_name(f"{identity}.{earlier + 1}.json"))


def _path(site: Site, identity: str) -> Path | None:
    return site.state_dir / "withdrawn" / f"{identity}.json" if IDENTITY.fullmatch(identity) else None
