"""Judging a model on this site's patients: once a model, and no more models than a study needs."""

from __future__ import annotations

from collections.abc import Mapping

from fl_client.failures import RefusedError
from fl_client.jobs.desk import Answer, Desk, left
from fl_client.jobs.once import once
from fl_shared.counts import risk_schema, risk_sensitivity
from fl_shared.results import Findings
from fl_shared.study import Study
from fl_shared.wire import Code, Request

EXTRA = 2  # models judged for a study besides one a round: the initial one, and the one with mean encoders


def evaluate(desk: Desk, request: Request, study: Study, arrays: Mapping[str, bytes], deadline: float) -> Answer:
    """Rows and curves of the model that the arrays make."""
    whole = any(study.is_local(name) for name in arrays)
    chosen = desk.schema(study, lambda name: study.is_shared(name) or (whole and study.is_local(name)))
    model = desk.received(request, arrays, chosen)
    if request.initial and request.initial != desk.pool.initial_digest(study):
        raise RefusedError(Code.INITIAL_DIFFERS)
    smallest = max(study.evaluation.min_patients, desk.site.privacy.min_patients)
    noised = study.evaluation.epsilon is not None

    def judged(sigma: float | None) -> Findings:
        if not noised and desk.outbox.evaluations(study) >= most(study):  # with noise the ledger counts
            raise RefusedError(Code.EGRESS)
        found = desk.pool.evaluate(study, arrays=model, name=request.model, sigma=sigma, deadline=left(deadline))
        desk.egress.check_findings(found, study=study, min_patients=smallest)
        return found

    found = once(
        desk,
        request,
        study,
        risk_schema(study) if noised else {},
        purpose="evaluation",
        noised=noised,
        clip=risk_sensitivity(study),
        kept=lambda: desk.outbox.evaluation(study, request.base),
        compute=judged,
        keep=lambda made: desk.outbox.put_evaluation(study, request.base, made),  # a repeat tells the same numbers
    )
    released = desk.egress.release_findings(found, study=study, round=request.round, min_patients=smallest)
    return desk.reply(study).model_copy(update=dict(released)), {}


def most(study: Study) -> int:
    """Models that may be judged for a study."""
    return study.training.rounds + EXTRA + study.evaluation.recalibrate
