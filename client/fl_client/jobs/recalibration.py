"""What the intercepts of a finished model are refitted from: counts of the training patients' logits and events."""

from __future__ import annotations

from collections.abc import Mapping

from fl_client.failures import RefusedError
from fl_client.jobs.desk import Answer, Desk, left
from fl_client.jobs.statistics import count
from fl_shared.counts import output_biases, recalibration_schema, recalibration_sensitivity
from fl_shared.study import Study
from fl_shared.wire import Code, Request

MODELS = 2  # whose counts are told without noise: a run's final one, and that of a run made anew


def recalibrate(desk: Desk, request: Request, study: Study, arrays: Mapping[str, bytes], deadline: float) -> Answer:
    """Counts under the model that the arrays make, of each label whose intercept is among them."""
    if not study.evaluation.recalibrate or request.round > study.training.rounds:
        raise RefusedError(Code.BAD_REQUEST)
    whole = any(study.is_local(name) for name in arrays)
    chosen = desk.schema(study, lambda name: study.is_shared(name) or (whole and study.is_local(name)))
    model = desk.received(request, arrays, chosen)
    if request.initial != desk.pool.initial_digest(study):
        raise RefusedError(Code.INITIAL_DIFFERS)
    tasks = tuple(output_biases(study, model))
    known = desk.outbox.counts(study, request.kind, request.base) is not None
    spent = study.privacy.mode == "none" and not known and desk.outbox.counted(study, request.kind) >= MODELS
    if not tasks or spent:  # with noise the ledger counts
        raise RefusedError(Code.EGRESS)
    return count(
        desk,
        request,
        study,
        schema=recalibration_schema(study, tasks),
        purpose="recalibration",
        sensitivity=recalibration_sensitivity(study, tasks),
        compute=lambda sigma: desk.pool.recalibration(
            study, arrays=model, tasks=tasks, sigma=sigma, deadline=left(deadline)
        ),
    )
