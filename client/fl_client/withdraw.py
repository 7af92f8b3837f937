"""Withdrawing from a study: nothing of it leaves any more, and what this site gave to it is written down."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from fl_client.approval import audit_log, list_approved, revoke, user
from fl_client.egress_log import UPDATES, names, released
from fl_client.withdrawn import Withdrawal, keep, releasing, withdrawal
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import Site


def withdraw(site: Site, identity: str, *, reason: str = "") -> Withdrawal:
    """Withdraw from a study; a repeated call gives the record of the first.

    Args:
        site: this site.
        identity: hash of the study.
        reason: kept in the record, never told to anybody outside.

    Raises:
        ConsiliumError: the study was never approved here and nothing left for it (exit code 13); the log of releases
            does not verify (16).
    """
    if (known := withdrawal(site, identity)) is not None:
        revoke(site, identity)  # where the first call was interrupted
        return known
    record = next((r for r in list_approved(site) if r.identity == identity), None)
    with releasing(site):
        rows = [row for row in released(site) if row.study == identity]
        if record is None and not rows:
            mend = f"See fl-client --site {site.name} approvals."
            raise ConsiliumError(
                f"no study with the hash '{identity}' is approved, and nothing left for it. {mend}",
                code=ExitCode.NOT_APPROVED,
            )
        role: Literal["train", "external"] | None = record.role if record is not None else None
        made = Withdrawal(
            identity=identity,
            study=record.study if record is not None else names(site).get(identity, ""),
            role=role,
            rounds=tuple(sorted({row.round for row in rows if row.what in UPDATES})),
            encoders=any(row.what == "encoders" for row in rows),
            evaluations=sum(row.what == "evaluate" for row in rows),
            releases=len(rows),
            bytes=sum(row.bytes for row in rows),
            first=rows[0].time if rows else "",
            last=rows[-1].time if rows else "",
            reason=reason,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            by=user(),
        )
        keep(site, made)
    revoke(site, identity)
    audit_log(site).append(made.by, "withdraw", study=identity, name=made.study, releases=made.releases)
    return made
