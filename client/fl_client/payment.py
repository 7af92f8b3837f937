"""Paying for a release before it is computed, and recognising a request that was paid for already."""

from __future__ import annotations

import hashlib

from fl_client.egress import Schema
from fl_client.failures import RefusedError
from fl_client.privacy.chain import Purpose
from fl_client.privacy.ledger import Ledger
from fl_client.privacy.provenance import Provenance
from fl_shared.budget import budget
from fl_shared.site import Site
from fl_shared.study import Study
from fl_shared.wire import Code, Mark, Request


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
    """The ledger of one site as its jobs use it.

    Raises:
        ConsiliumError: the ledger does not verify (exit code 16).
    """

    def __init__(self, site: Site) -> None:
        self._site = site
        self._ledger = site_ledger(site)
        self._provenance = Provenance(site, self._ledger)

    def mark(self) -> Mark:
        """How far this site's ledger has come: its last row."""
        return self._ledger.mark()

    def hold(self, mark: Mark) -> None:
        """Check that the ledger still holds what this site told before.

        Raises:
            ConsiliumError: it does not: it was rolled back, copied or forked (exit code 16).
        """
        self._ledger.hold(mark)

    def delta(self, study: Study) -> float:
        """The stricter of study and site."""
        return min(study.privacy.delta, self._site.privacy.delta)

    def spent(self, study: Study | None = None) -> float:
        """Epsilon that the cohort spent in all, or on one study apart from judging."""
        if study is None:
            return self._ledger.spent(self._site.privacy.delta)
        return self._ledger.spent(self.delta(study), study=study.identity)

    def reserve(
        self,
        request: Request,
        study: Study,
        schema: Schema,
        *,
        purpose: Purpose = "training",
        clip: float | None = None,
    ) -> tuple[int, float]:
        """Pay for one release of the study: a round of training, or noised counts.

        Args:
            request: what is asked; a round's sums, or (of any other purpose) one release.
            study: gives the noise: the one with which all its parts cost its epsilon.
            schema: what is covered.
            purpose: of the release.
            clip: L2 bound of what a patient adds to it; the study's when absent.

        Returns:
            The number of the ledger's row, and the noise multiplier that it names.

        Raises:
            RefusedError: the study plans no such noise.
            ConsiliumError: a budget would be exceeded, or the ledger does not verify (exit code 16).
        """
        delta = self.delta(study)
        event = getattr(budget(study, self._site.name, delta=delta), purpose)
        limit = study.evaluation.epsilon if purpose == "evaluation" else study.privacy.epsilon
        if event is None or limit is None:
            raise RefusedError(Code.LEDGER)
        provenance = self.trace(study)
        row = self._ledger.find(request.study, request.round, request.base, purpose=purpose)
        if row is not None and row.state == "RESERVED":  # stopped while computing: paid, but nothing to show
            self._ledger.void(row.reservation)
        seq = self._ledger.reserve(
            study=request.study,
            round=request.round,
            q=event.q,
            sigma=event.sigma,
            clip=study.privacy.clip if clip is None else clip,
            steps=event.steps // study.training.rounds if purpose == "training" else event.steps,
            delta=delta,
            cap=self._site.privacy.epsilon_cap,
            budget=limit,
            parameter_set_hash=hashlib.sha256(repr(sorted(schema.items())).encode()).hexdigest(),
            provenance_hash=provenance,
            base_digest=request.base,
            purpose=purpose,
            # of mode 'site' only updates hide a whole site; judged patients are protected one by one
            unit="site" if study.privacy.mode == "site" and purpose == "training" else "patient",
        )
        return seq, event.sigma

    def trace(self, study: Study) -> str:
        """Hash of the table of all that the study's releases depend on here, every part of it accounted for.

        Raises:
            ProvenanceError: a part is not (exit code 16).
        """
        return self._provenance.check(study)

    def commit(self, seq: int) -> None:
        """What was paid for is durable in the outbox."""
        self._ledger.commit(seq)

    def void(self, seq: int) -> None:
        """Nothing was released; it stays paid."""
        self._ledger.void(seq)

    def recognise(self, request: Request, *, purpose: Purpose = "training") -> bool:
        """Whether what the outbox holds for this request was paid for and may leave (again).

        Returns:
            False when its reservation was voided: then it is paid and computed anew.

        Raises:
            RefusedError: the outbox knows more than the ledger, so the ledger was rolled back.
        """
        asked = (request.study, request.round, request.base)
        row = self._ledger.find(*asked, purpose=purpose)
        if row is None:
            rows = (r for r in self._ledger.rows() if r.purpose == purpose)
            if any((r.study, r.round, r.base_digest) == asked for r in rows):
                return False
            raise RefusedError(Code.LEDGER)
        if row.state == "RESERVED":  # stopped between outbox and commit
            self._ledger.commit(row.reservation)
        return True
