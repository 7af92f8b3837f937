"""Judging a model on this site's patients: once a model, and no more models than a study needs.

A study that judges a finished model names it by its arrays: no other is judged.
"""

from __future__ import annotations

from collections.abc import Mapping

from fl_client.failures import RefusedError
from fl_client.jobs.desk import Answer, Desk, left
from fl_client.jobs.once import once
from fl_shared.counts import risk_schema, risk_sensitivity
from fl_shared.judged import PREFIX, are_judged, other_study
from fl_shared.learning import due
from fl_shared.results import Findings
from fl_shared.study import Study
from fl_shared.wire import Arrays, Code, Request

EXTRA = 2  # models judged for a study besides one a round: the initial one, and the one with mean encoders


def evaluate(desk: Desk, request: Request, study: Study, arrays: Mapping[str, bytes], deadline: float) -> Answer:
    """What is told of the model that the arrays make."""
    model = (_trained if study.judged is None else _finished)(desk, request, study, arrays)
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


def _trained(desk: Desk, request: Request, study: Study, arrays: Mapping[str, bytes]) -> Arrays:
    """The model of a study that trains: what is shared, and the mean of the rest if the coordinator has it."""
    whole = any(study.is_local(name) for name in arrays)
    chosen = desk.schema(study, lambda name: study.is_shared(name) or (whole and study.is_local(name)))
    model = desk.received(request, arrays, chosen)
    if request.initial and request.initial != desk.pool.initial_digest(study):
        raise RefusedError(Code.INITIAL_DIFFERS)
    return model


def _finished(desk: Desk, request: Request, study: Study, arrays: Mapping[str, bytes]) -> Arrays:
    """The finished model that was approved, whole, and the one that it is compared with."""
    schema = dict(desk.pool.schema(study))
    if study.judged is not None and study.judged.against is not None:
        schema = {**schema, **{f"{PREFIX}{name}": spec for name, spec in desk.pool.schema(other_study(study)).items()}}
    model = desk.received(request, arrays, schema)
    if not are_judged(study, model):
        raise RefusedError(Code.MODEL_DIFFERS)
    return model


def most(study: Study) -> int:
    """Models that may be judged for a study, besides those of the learning curves: with them never more than the
    rounds and a few.
    """
    if study.judged is not None:
        return 1
    return study.training.rounds - due(study) + EXTRA + study.evaluation.recalibrate
