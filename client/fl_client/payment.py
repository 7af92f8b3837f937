"""Paying for a round before it is computed, and recognising a request that was paid for already."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from fl_client.egress import Schema
from fl_client.failures import RefusedError
from fl_client.privacy.ledger import Ledger
from fl_shared.accounting import plan_sigma
from fl_shared.site import Site
from fl_shared.study import Study
from fl_shared.wire import Code, Request


def site_ledger(site: Site) -> Ledger:
    """The ledger of the site's cohort, begun here on the very first start only.

    Raises:
        ConsiliumError: it does not verify, or it is missing although the site has an outbox (exit code 16).
    """
    ledger = Ledger(site.state_dir, cohort=site.name)
    if not (site.state_dir / "outbox").exists():  # nothing was ever released from here
        ledger.create()
    ledger.verify()
    return ledger


class Payments:
    """The ledger of one site as the service uses it.

    Raises:
        ConsiliumError: the ledger does not verify (exit code 16).
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._ledger = site_ledger(site)

    def delta(self, study: Study) -> float:
        """The stricter of study and site."""
        return min(study.privacy.delta, self._site.privacy.delta)

    def spent(self, study: Study | None = None) -> float:
        """Epsilon that the cohort spent in all, or on one study."""
        if study is None:
            return self._ledger.spent(self._site.privacy.delta)
        return self._ledger.spent(self.delta(study), study=study.identity)

    def reserve(self, request: Request, study: Study, schema: Schema) -> tuple[int, float]:
        """Pay for one round of the study.

        Returns:
            The number of the ledger's row, and the noise multiplier that it names: the one with which all rounds of
            the study cost its epsilon.

        Raises:
            ConsiliumError: a budget would be exceeded, or the ledger does not verify (exit code 16).
        """
        plan, budget = study.training, study.privacy.epsilon
        if budget is None:
            raise RefusedError(Code.LEDGER)
        q, delta = study.sampling_rate(self._site.name), self.delta(study)
        sigma = _planned(q, plan.rounds * plan.steps, budget, delta)
        row = self._ledger.find(request.study, request.round, request.base)
        if row is not None and row.state == "RESERVED":  # stopped while computing: paid, but nothing to show
            self._ledger.void(row.reservation)
        seq = self._ledger.reserve(
            study=request.study,
            round=request.round,
            q=q,
            sigma=sigma,
            clip=study.privacy.clip,
            steps=plan.steps,
            delta=delta,
            cap=self._site.privacy.epsilon_cap,
            budget=budget,
            parameter_set_hash=hashlib.sha256(repr(sorted(schema.items())).encode()).hexdigest(),
            # the common start: equal at all sites, so no function of this site's patients
            provenance_hash=request.initial,
            base_digest=request.base,
        )
        return seq, sigma

    def commit(self, seq: int) -> None:
        """The update is durable in the outbox."""
        self._ledger.commit(seq)

    def void(self, seq: int) -> None:
        """Nothing was released; it stays paid."""
        self._ledger.void(seq)

    def recognise(self, request: Request) -> bool:
        """Whether the update that the outbox holds for this request was paid for and may leave (again).

        Returns:
            False when its reservation was voided: then the round is paid and computed anew.

        Raises:
            RefusedError: the outbox knows more than the ledger, so the ledger was rolled back.
        """
        asked = (request.study, request.round, request.base)
        row = self._ledger.find(*asked)
        if row is None:
            if any((r.study, r.round, r.base_digest) == asked for r in self._ledger.rows()):
                return False
            raise RefusedError(Code.LEDGER)
        if row.state == "RESERVED":  # stopped between outbox and commit
            self._ledger.commit(row.reservation)
        return True


@lru_cache(maxsize=64)
def _planned(q: float, steps: int, epsilon: float, delta: float) -> float:
    return plan_sigma(q=q, steps=steps, epsilon=epsilon, delta=delta)
