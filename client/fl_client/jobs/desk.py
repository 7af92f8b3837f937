"""What every job of the site's service needs, and the one way in and out."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

from fl_client.egress import MASKED, Egress, Schema, schema_bytes
from fl_client.failures import RefusedError
from fl_client.inbound import read_arrays
from fl_client.metrics import SiteMetrics
from fl_client.outbox import Outbox
from fl_client.payment import Payments
from fl_client.privacy.chain import Purpose
from fl_client.secure_session import Sessions
from fl_shared import secure
from fl_shared.site import Site
from fl_shared.study import Study
from fl_shared.wire import Arrays, Code, Reply, Request, digest

if TYPE_CHECKING:
    from fl_client.training.actors import Pool

Answer = tuple[Reply, dict[str, bytes]]
ROOM = 3  # times an update that must be free on disk before it is paid for: it, its temporary file, ledger and logs


@dataclass(frozen=True, kw_only=True)
class Desk:
    """The parts of one site's service."""

    site: Site
    pool: Pool
    payments: Payments
    outbox: Outbox
    egress: Egress
    metrics: SiteMetrics
    sessions: Sessions

    def schema(self, study: Study, chosen: Callable[[str], bool]) -> Schema:
        """The part of the model's schema whose names are chosen."""
        return {name: spec for name, spec in self.pool.schema(study).items() if chosen(name)}

    def received(self, request: Request, arrays: Mapping[str, bytes], schema: Schema) -> Arrays:
        """The arrays of a request, which must be those that its digest names."""
        found = read_arrays(arrays, schema)
        if digest(found) != request.base:
            raise RefusedError(Code.BAD_REQUEST)
        return found

    def pay(
        self,
        request: Request,
        study: Study,
        schema: Schema,
        *,
        purpose: Purpose = "training",
        clip: float | None = None,
    ) -> tuple[int, float]:
        """Pay for a release; see `Payments.reserve`."""
        if shutil.disk_usage(self.site.state_dir).free < ROOM * schema_bytes(schema):  # or every try would be paid
            raise OSError(errno.ENOSPC, "no room for the update", str(self.site.state_dir))
        paid = self.payments.reserve(request, study, schema, purpose=purpose, clip=clip)
        self.metrics.epsilon_spent.labels(unit="patient").set(self.payments.spent())
        return paid

    def release(
        self, arrays: Arrays, request: Request, study: Study, schema: Schema, *, exact: bool = False
    ) -> dict[str, bytes]:
        """Let arrays out through the egress gate, if all that they depend on is accounted for.

        exact: these are counts of patients without noise.
        """
        if study.privacy.mode != "none":
            self.payments.trace(study)
        return self.egress.release_arrays(
            arrays,
            kind=MASKED if arrays.keys() == {secure.MASKED} else request.kind,
            study=study,
            round=request.round,
            schema=schema,
            byte_budget=schema_bytes(schema),
            exact=exact,
        )

    def reply(self, study: Study | None) -> Reply:
        """An ok answer without content."""
        plan = study.sites[self.site.name] if study else None
        private = study is not None and plan is not None and plan.role == "train" and study.privacy.mode != "none"
        return Reply(
            status="ok",
            site=self.site.name,
            role=plan.role if plan else None,
            package=version("consilium"),
            approved=study is not None,
            epsilon=self.payments.spent(study) if study and private else None,
            ledger=self.payments.mark() if study and study.pays else None,
        )


def left(deadline: float) -> float:
    """Seconds left until ``deadline`` (`time.monotonic` seconds).

    Raises:
        TimeoutError: none.
    """
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("the request waited for its whole deadline")
    return seconds
