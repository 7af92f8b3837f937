"""The site's service: decides what a coordinator's request may do here, under the study that this site approved.

Every call is hostile until shown otherwise: the caller may run server-sent code. A failure leaves as a code from a
fixed list; what really happened stays in ``state/log.jsonl``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from typing import TYPE_CHECKING

from fl_client.approval import approved, audit_log
from fl_client.egress import Egress
from fl_client.failures import FAILED, RefusedError, code_of
from fl_client.files import private_dir
from fl_client.jobs import JOBS, JUDGES, Answer, Desk
from fl_client.log import site_logger
from fl_client.metrics import SiteMetrics
from fl_client.outbox import Outbox
from fl_client.payment import Payments
from fl_client.secure_session import Sessions
from fl_client.withdrawn import IDENTITY, is_withdrawn
from fl_shared.audit import AuditError
from fl_shared.errors import ConsiliumError
from fl_shared.site import Site
from fl_shared.study import Study
from fl_shared.wire import Code, Reply, Request

if TYPE_CHECKING:
    from fl_client.training.actors import Pool


class SiteService:
    """Answers requests for one site. Training and judging run one at a time; later requests queue for their turn.

    Args:
        site: this site.
        pool: what trains here.
        only: answer for this study alone, which no approval on disk opens to others (pretraining).
        sessions: where the secrets of secure aggregation are kept; in memory when absent.

    Raises:
        ConsiliumError: the privacy ledger does not verify (exit code 16).
    """

    def __init__(self, site: Site, pool: Pool, *, only: Study | None = None, sessions: Sessions | None = None) -> None:
        self.site = site
        self.metrics = SiteMetrics(site)
        self._only = only
        payments = Payments(site)  # before the outbox: without one, this is the very first start
        self._desk = Desk(
            site=site,
            pool=pool,
            payments=payments,
            outbox=Outbox(private_dir(site.state_dir / "outbox")),
            egress=Egress(site),
            metrics=self.metrics,
            sessions=sessions or Sessions(),
        )
        self._audit = audit_log(site)
        self._log = site_logger(site)
        self._turn = threading.Lock()
        self.metrics.epsilon_spent.labels(unit="patient").set(payments.spent())

    def handle(self, request_json: str, arrays: Mapping[str, bytes]) -> tuple[str, dict[str, bytes]]:
        """Answer a request; never raises.

        Args:
            request_json: JSON of a `Request`.
            arrays: name -> ``.npy`` bytes.

        Returns:
            JSON of a `Reply`, and the arrays released with it.
        """
        study: Study | None = None
        request: Request | None = None
        try:
            request = Request.model_validate_json(request_json, strict=True)
            if is_withdrawn(self.site, request.study):
                raise RefusedError(Code.WITHDRAWN)
            study = self._known(request.study)
            if request.ledger is not None:
                self._desk.payments.hold(request.ledger)
            if request.kind == "hello":
                return self._desk.reply(study).model_dump_json(), {}
            if study is None:
                raise RefusedError(Code.NOT_APPROVED)
            reply, out = self._answer(request, study, arrays)
            self._record(request, "ok")
            return reply.model_dump_json(), out
        except Exception as error:  # noqa: BLE001 - no exception text may leave the site
            return self._failure(error, request, study).model_dump_json(), {}

    def _known(self, identity: str) -> Study | None:
        """The study of that identity, if it may run here."""
        if self._only is not None:
            return self._only if self._only.identity == identity else None
        return approved(self.site, identity)

    def _answer(self, request: Request, study: Study, arrays: Mapping[str, bytes]) -> Answer:
        if (job := JOBS.get(request.kind)) is None:
            raise RefusedError(Code.BAD_REQUEST)
        if request.kind not in JUDGES:
            self._may_train(study)
        elif study.sites[self.site.name].role not in self.site.roles:
            raise RefusedError(Code.WRONG_ROLE)
        with self._in_turn(study) as deadline:
            self._desk.pool.load(study)
            return job(self._desk, request, study, arrays, deadline)

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

    def _record(self, request: Request | None, outcome: str) -> None:
        """One row of the audit log; of what a request names only what has the right form."""
        kind, named, number = (request.kind, request.study, request.round) if request else ("malformed", "", 0)
        study = named if IDENTITY.fullmatch(named) else ""
        self._audit.append("coordinator", kind, study=study, round=number, outcome=outcome)

    def _failure(self, error: Exception, request: Request | None, study: Study | None) -> Reply:
        """Map an error to its code; its text goes to the local log only."""
        code = code_of(error)
        with suppress(OSError, AuditError):  # a full disk: the answer is a refusal all the same
            self._record(request, code.value)
        self.metrics.failures.labels(kind=code.value).inc()
        self._log.error("request-failed", exc_info=error, extra={"fields": {"code": code.value}})
        status = "failed" if code in FAILED else "refused"
        mark = None
        if study is not None and study.pays:  # a failure may have been paid for
            with suppress(ConsiliumError):  # the ledger itself may be what fails
                mark = self._desk.payments.mark()
        return Reply(status=status, code=code, site=self.site.name, package=version("consilium"), ledger=mark)
