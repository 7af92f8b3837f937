"""One round of training, and the release of what a site has of its own after the last."""

from __future__ import annotations

from collections.abc import Mapping

from fl_client.egress import check_arrays
from fl_client.failures import RefusedError
from fl_client.jobs.desk import Answer, Desk, left
from fl_client.jobs.once import once
from fl_shared.study import Study
from fl_shared.together import own_sigma
from fl_shared.wire import Arrays, Code, Request


def train(desk: Desk, request: Request, study: Study, arrays: Mapping[str, bytes], deadline: float) -> Answer:
    """One round from the shared groups; a repeated request gets the same bytes again."""
    _, update = computed(desk, request, study, arrays, deadline)
    schema = desk.schema(study, lambda name: study.releases(name, request.round))
    return desk.reply(study), desk.release(update, request, study, schema)


def computed(
    desk: Desk, request: Request, study: Study, arrays: Mapping[str, bytes], deadline: float
) -> tuple[Arrays, Arrays]:
    """The shared groups before and after a round; what was computed before comes from the outbox."""
    if not 1 <= request.round <= study.training.rounds:
        raise RefusedError(Code.BAD_REQUEST)
    base = desk.received(request, arrays, desk.schema(study, study.is_shared))
    if request.initial != desk.pool.initial_digest(study):
        raise RefusedError(Code.INITIAL_DIFFERS)
    schema = desk.schema(study, lambda name: study.releases(name, request.round))

    def trained(sigma: float | None) -> Arrays:
        own = None if sigma is None else own_sigma(study, desk.site.name, sigma)
        with desk.metrics.fit_seconds.time():
            update = desk.pool.train(study, round=request.round, base=base, sigma=own, deadline=left(deadline))
        check_arrays(update, schema)
        desk.metrics.examples.inc(study.training.steps * study.training.batch)
        return update

    update = once(
        desk,
        request,
        study,
        schema,
        purpose="training",
        noised=study.privacy.mode != "none",
        kept=lambda: desk.outbox.update(study, request.round, request.base),
        compute=trained,
        keep=lambda update: desk.outbox.put_update(study, request.round, request.base, update),
    )
    return base, update


def encoders(desk: Desk, request: Request, study: Study, _: Mapping[str, bytes], deadline: float) -> Answer:
    """The local encoders: one approved release, after a last round in which this site took part."""
    plan, schema = study.training, desk.schema(study, study.is_local)
    if not schema or plan.final_encoders != "mean" or request.round != plan.rounds:
        raise RefusedError(Code.EGRESS)
    if not desk.outbox.has_round(study, plan.rounds):
        raise RefusedError(Code.EGRESS)
    own = desk.outbox.encoders(study)
    if own is None:
        own = desk.pool.encoders(study, deadline=left(deadline))
        check_arrays(own, schema)
        desk.outbox.put_encoders(study, own)
    return desk.reply(study), desk.release(own, request, study, schema)
