"""The site's service: decides what a coordinator's request may do here, under the study that this site approved.

Every call is hostile until shown otherwise: the caller may run server-sent code. A failure leaves as a code from a
fixed list; what really happened stays in ``state/log.jsonl``.
"""

from __future__ import annotations

import errno
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING

from fl_client.approval import approved, audit_log
from fl_client.egress import Egress, Schema, check_arrays, schema_bytes
from fl_client.failures import FAILED, RefusedError, code_of
from fl_client.files import private_dir
from fl_client.inbound import read_arrays
from fl_client.log import site_logger
from fl_client.metrics import SiteMetrics
from fl_client.outbox import Evaluation, Outbox
from fl_client.payment import Payments
from fl_shared.site import Site
from fl_shared.study import Study
from fl_shared.wire import Arrays, Code, Reply, Request, digest

if TYPE_CHECKING:
    from fl_client.training.actors import Pool

Answer = tuple[Reply, dict[str, bytes]]

ROOM = 3  # times an update that must be free on disk before it is paid for: it, its temporary file, ledger and logs
EXTRA_EVALUATIONS = 2  # models judged for a study besides one a round: the initial one, and the one with mean encoders


class SiteService:
    """Answers requests for one site. Training and judging run one at a time; later requests queue for their turn.

    Args:
        site: this site.
        pool: what trains here.
        only: answer for this study alone, which no approval on disk opens to others (pretraining).

    Raises:
        ConsiliumError: the privacy ledger does not verify (exit code 16).
    """

    def __init__(self, site: Site, pool: Pool, *, only: Study | None = None) -> None:
        self.site = site
        self.metrics = SiteMetrics(site)
        self._pool, self._only = pool, only
        self._payments = Payments(site)
        self._outbox = Outbox(private_dir(site.state_dir / "outbox"))
        self._egress = Egress(site)
        self._audit = audit_log(site)
        self._log = site_logger(site)
        self._turn = threading.Lock()
        self.metrics.epsilon_spent.labels(unit="patient").set(self._payments.spent())

    def handle(self, request_json: str, arrays: Mapping[str, bytes]) -> tuple[str, dict[str, bytes]]:
        """Answer a request; never raises.

        Args:
            request_json: JSON of a `Request`.
            arrays: name -> ``.npy`` bytes.

        Returns:
            JSON of a `Reply`, and the arrays released with it.
        """
        try:
            request = Request.model_validate_json(request_json, strict=True)
            study = self._known(request.study)
            if request.kind == "hello":
                return self._reply(study).model_dump_json(), {}
            if study is None:
                raise RefusedError(Code.NOT_APPROVED)
            reply, out = self._answer(request, study, arrays)
            self._audit.append("coordinator", request.kind, study=request.study, round=request.round, outcome="ok")
            return reply.model_dump_json(), out
        except Exception as error:  # noqa: BLE001 - no exception text may leave the site
            return self._failure(error).model_dump_json(), {}

    def _known(self, identity: str) -> Study | None:
        """The study of that identity, if it may run here."""
        if self._only is not None:
            return self._only if self._only.identity == identity else None
        return approved(self.site, identity)

    def _answer(self, request: Request, study: Study, arrays: Mapping[str, bytes]) -> Answer:
        if request.kind in {"train", "encoders"}:
            self._may_train(study)
        elif study.sites[self.site.name].role not in self.site.roles:
            raise RefusedError(Code.WRONG_ROLE)
        with self._in_turn(study) as deadline:
            self._pool.load(study)
            if request.kind == "train":
                return self._train(request, study, arrays, deadline)
            if request.kind == "encoders":
                return self._encoders(request, study, deadline)
            return self._evaluate(request, study, arrays, deadline)

    def _may_train(self, study: Study) -> None:
        """The site's own rules, whatever the coordinator asks."""
        if study.sites[self.site.name].role != "train" or "train" not in self.site.roles:
            raise RefusedError(Code.WRONG_ROLE)
        if study.privacy.mode == "none" and not self.site.privacy.allow_without_privacy:
            raise RefusedError(Code.NO_PRIVACY_FORBIDDEN)

    @contextmanager
    def _in_turn(self, study: Study) -> Iterator[float]:
        """Wait for this request's turn; gives the end of its time (`time.monotonic` seconds)."""
        end = time.monotonic() + study.rounds.deadline
        if not self._turn.acquire(timeout=study.rounds.deadline):
            raise RefusedError(Code.BUSY)
        try:
            yield end
        finally:
            self._turn.release()

    def _train(self, request: Request, study: Study, arrays: Mapping[str, bytes], deadline: float) -> Answer:
        if not 1 <= request.round <= study.training.rounds:
            raise RefusedError(Code.BAD_REQUEST)
        base = _received(request, arrays, self._schema(study, study.is_shared))
        if request.initial != self._pool.initial_digest(study):
            raise RefusedError(Code.INITIAL_DIFFERS)
        schema = self._schema(study, lambda name: study.releases(name, request.round))
        update = self._earlier_update(request, study)
        if update is None:
            with self.metrics.fit_seconds.time():
                update = self._compute(request, study, base, schema, deadline)
        return self._reply(study), self._release(update, request, study, schema)

    def _earlier_update(self, request: Request, study: Study) -> Arrays | None:
        """The update that this very request got before: the same bytes again, no fresh noise."""
        update = self._outbox.update(study, request.round, request.base)
        if update is None or study.privacy.mode == "none" or self._payments.recognise(request):
            return update
        return None

    def _compute(self, request: Request, study: Study, base: Arrays, schema: Schema, deadline: float) -> Arrays:
        """Train one round; under privacy the ledger row stands before, the outbox file before its commit."""
        seq, sigma = self._pay(request, study, schema) if study.privacy.mode == "patient" else (None, None)
        try:
            update = self._pool.train(study, round=request.round, base=base, sigma=sigma, deadline=_left(deadline))
            check_arrays(update, schema)
            self._outbox.put_update(study, request.round, request.base, update)
        except BaseException:
            if seq is not None:
                self._payments.void(seq)  # it still counts as spent
            raise
        if seq is not None:
            self._payments.commit(seq)
        self.metrics.examples.inc(study.training.steps * study.training.batch)
        return update

    def _pay(self, request: Request, study: Study, schema: Schema) -> tuple[int, float]:
        if shutil.disk_usage(self.site.state_dir).free < ROOM * schema_bytes(schema):  # or every try would be paid
            raise OSError(errno.ENOSPC, "no room for the update", str(self.site.state_dir))
        paid = self._payments.reserve(request, study, schema)
        self.metrics.epsilon_spent.labels(unit="patient").set(self._payments.spent())
        return paid

    def _encoders(self, request: Request, study: Study, deadline: float) -> Answer:
        """The local encoders: one approved release, after a last round in which this site took part."""
        plan, schema = study.training, self._schema(study, study.is_local)
        if not schema or plan.final_encoders != "mean" or request.round != plan.rounds:
            raise RefusedError(Code.EGRESS)
        if not self._outbox.has_round(study, plan.rounds):
            raise RefusedError(Code.EGRESS)
        arrays = self._outbox.encoders(study)
        if arrays is None:
            arrays = self._pool.encoders(study, deadline=_left(deadline))
            check_arrays(arrays, schema)
            self._outbox.put_encoders(study, arrays)
        return self._reply(study), self._release(arrays, request, study, schema)

    def _evaluate(self, request: Request, study: Study, arrays: Mapping[str, bytes], deadline: float) -> Answer:
        """Judge a model on this site's patients: once a model, and no more models than a study needs."""
        whole = any(study.is_local(name) for name in arrays)
        model = _received(
            request, arrays, self._schema(study, lambda name: study.is_shared(name) or (whole and study.is_local(name)))
        )
        if request.initial and request.initial != self._pool.initial_digest(study):
            raise RefusedError(Code.INITIAL_DIFFERS)
        found = self._outbox.evaluation(study, request.base)
        if found is None:
            if self._outbox.evaluations(study) >= study.training.rounds + EXTRA_EVALUATIONS:
                raise RefusedError(Code.EGRESS)
            rows, curves = self._pool.evaluate(study, arrays=model, deadline=_left(deadline))
            found = Evaluation(rows=tuple(rows), curves=tuple(curves))
        released, drawn = self._egress.release_metrics(
            found.rows,
            found.curves,
            study=study,
            round=request.round,
            min_patients=max(study.evaluation.min_patients, self.site.privacy.min_patients),
        )
        self._outbox.put_evaluation(study, request.base, found)
        return self._reply(study).model_copy(update={"evaluation": released, "curves": drawn}), {}

    def _release(self, arrays: Arrays, request: Request, study: Study, schema: Schema) -> dict[str, bytes]:
        return self._egress.release_arrays(
            arrays,
            kind=request.kind,
            study=study,
            round=request.round,
            schema=schema,
            byte_budget=schema_bytes(schema),
        )

    def _schema(self, study: Study, chosen: Callable[[str], bool]) -> Schema:
        """The part of the model's schema whose names are chosen."""
        return {name: spec for name, spec in self._pool.schema(study).items() if chosen(name)}

    def _reply(self, study: Study | None) -> Reply:
        plan = study.sites[self.site.name] if study else None
        private = study is not None and plan is not None and plan.role == "train" and study.privacy.mode == "patient"
        return Reply(
            status="ok",
            site=self.site.name,
            role=plan.role if plan else None,
            package=version("consilium"),
            approved=study is not None,
            epsilon=self._payments.spent(study) if study and private else None,
        )

    def _failure(self, error: Exception) -> Reply:
        """Map an error to its code; its text goes to the local log only."""
        code = code_of(error)
        self.metrics.failures.labels(kind=code.value).inc()
        self._log.error("request-failed", exc_info=error, extra={"fields": {"code": code.value}})
        status = "failed" if code in FAILED else "refused"
        return Reply(status=status, code=code, site=self.site.name, package=version("consilium"))


def _received(request: Request, arrays: Mapping[str, bytes], schema: Schema) -> Arrays:
    """The arrays of a request, which must be those that its digest names."""
    received = read_arrays(arrays, schema)
    if digest(received) != request.base:
        raise RefusedError(Code.BAD_REQUEST)
    return received


def _left(deadline: float) -> float:
    """Seconds left.

    Raises:
        TimeoutError: none.
    """
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the request waited for its whole deadline")
    return left
