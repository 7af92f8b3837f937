"""What is released once and paid for once: the ledger row before the computation, the outbox before its commit."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from fl_client.egress import Schema
from fl_client.jobs.desk import Desk
from fl_client.privacy.chain import Purpose
from fl_shared.study import Study
from fl_shared.wire import Request

T = TypeVar("T")


def once(
    desk: Desk,
    request: Request,
    study: Study,
    schema: Schema,
    *,
    purpose: Purpose,
    noised: bool,
    clip: float | None = None,
    kept: Callable[[], T | None],
    compute: Callable[[float | None], T],
    keep: Callable[[T], None],
) -> T:
    """What this very request got before, or what is computed now; a repeated request gets no fresh noise.

    Args:
        desk: of the site.
        request: what is asked.
        study: the approved study.
        schema: what the noise covers.
        purpose: of the release, in the ledger.
        noised: whether it is paid for; without noise the outbox alone makes repeats equal.
        clip: L2 bound of what a patient adds; the study's when absent.
        kept: reads the outbox.
        compute: makes and checks the release from the noise multiplier (None without noise).
        keep: writes it to the outbox, durably.

    Raises:
        RefusedError: the study plans no such noise, or the outbox knows more than the ledger.
        ConsiliumError: a budget would be exceeded, or the ledger does not verify (exit code 16).
    """
    found = kept()
    if found is not None and (not noised or desk.payments.recognise(request, purpose=purpose)):
        return found
    seq, sigma = desk.pay(request, study, schema, purpose=purpose, clip=clip) if noised else (None, None)
    try:
        made = compute(sigma)
        keep(made)
    except BaseException:
        if seq is not None:
            desk.payments.void(seq)  # it still counts as spent
        raise
    if seq is not None:
        desk.payments.commit(seq)
    return made
