"""A point of the learning curves: the model that a round ended with, judged briefly on held-out patients.

One model a round, of a round in which this site took part; a repeat tells the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

from fl_client.failures import RefusedError
from fl_client.jobs.desk import Answer, Desk, left
from fl_client.jobs.once import once
from fl_shared.learning import is_due
from fl_shared.results import Findings
from fl_shared.study import Study
from fl_shared.wire import Code, Request


def learning(desk: Desk, request: Request, study: Study, arrays: Mapping[str, bytes], deadline: float) -> Answer:
    """What is told of the model that the arrays and this site's own make after a round."""
    if not is_due(study, request.round):
        raise RefusedError(Code.BAD_REQUEST)
    model = desk.received(request, arrays, desk.schema(study, study.is_shared))
    if request.initial != desk.pool.initial_digest(study):
        raise RefusedError(Code.INITIAL_DIFFERS)
    if not desk.outbox.has_round(study, request.round):
        raise RefusedError(Code.EGRESS)
    smallest = max(study.evaluation.min_patients, desk.site.privacy.min_patients)

    def judged(_: float | None) -> Findings:
        if desk.outbox.has_learned(study, request.round):
            raise RefusedError(Code.EGRESS)
        found = desk.pool.learned(study, round=request.round, arrays=model, deadline=left(deadline))
        desk.egress.check_learned(found, study=study, round=request.round, min_patients=smallest)
        return found

    found = once(
        desk,
        request,
        study,
        {},
        purpose="evaluation",
        noised=False,
        kept=lambda: desk.outbox.learned(study, request.round, request.base),
        compute=judged,
        keep=lambda made: desk.outbox.put_learned(study, request.round, request.base, made),
    )
    released = desk.egress.release_learned(found, study=study, round=request.round, min_patients=smallest)
    return desk.reply(study).model_copy(update=dict(released)), {}
