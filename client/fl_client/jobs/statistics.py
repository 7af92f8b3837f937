"""Counts of the training patients: those of the study's statistics, and those that intercepts are refitted from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fl_client.egress import Schema, check_arrays
from fl_client.failures import RefusedError
from fl_client.jobs.desk import Answer, Desk, left
from fl_client.jobs.once import once
from fl_client.privacy.chain import Purpose
from fl_shared.counts import statistics_schema, statistics_sensitivity
from fl_shared.study import Study
from fl_shared.wire import Arrays, Code, Request


def statistics(desk: Desk, request: Request, study: Study, arrays: Mapping[str, bytes], deadline: float) -> Answer:
    """The study's counts; one release, whatever is asked how often."""
    desk.received(request, arrays, {})
    if study.statistics is None or request.round != 0:
        raise RefusedError(Code.BAD_REQUEST)
    return count(
        desk,
        request,
        study,
        schema=statistics_schema(study),
        purpose="statistics",
        sensitivity=statistics_sensitivity(study),
        compute=lambda sigma: desk.pool.statistics(study, sigma=sigma, deadline=left(deadline)),
    )


def count(
    desk: Desk,
    request: Request,
    study: Study,
    *,
    schema: Schema,
    purpose: Purpose,
    sensitivity: float,
    compute: Callable[[float | None], Arrays],
) -> Answer:
    """Let counts of training patients out: noised and paid for, or without privacy exact and never of a few patients.

    Raises:
        RefusedError: (`Code.TOO_FEW`) without privacy, all of them are withheld.
    """
    noised = study.privacy.mode != "none"

    def made(sigma: float | None) -> Arrays:
        counts = compute(sigma)
        check_arrays(counts, schema)
        if sigma is None and not any(cells.any() for cells in counts.values()):
            raise RefusedError(Code.TOO_FEW)
        return counts

    found = once(
        desk,
        request,
        study,
        schema,
        purpose=purpose,
        noised=noised,
        clip=sensitivity,
        kept=lambda: desk.outbox.counts(study, request.kind, request.base),
        compute=made,
        keep=lambda counts: desk.outbox.put_counts(study, request.kind, request.base, counts),
    )
    return desk.reply(study), desk.release(found, request, study, schema, exact=not noised)
