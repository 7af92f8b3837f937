"""The privacy ledger: every release of a cohort is paid for here before it is computed, and nothing is ever refunded.

``ledger.jsonl`` holds one JSON row a line, each carrying the hash of the row before it; ``ledger.head`` holds the
number and hash of the last row, so that a file that was cut or put back is found. Both are fsynced under one file
lock. A reservation counts from the moment it is written, whatever becomes of it (crash, void); its later rows only
record its fate. Opacus keeps its accountant inside checkpoints, where an old checkpoint refunds the budget: hence
this file outside them. Putting back both files at once cannot be seen from here: the coordinator keeps the last row
that it was told of (`mark`) and sends it along, and a ledger that does not hold it (`hold`) releases nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from fl_client.privacy.chain import Chain, Purpose, Row, State, Unit
from fl_shared.accounting import Event, accountant_version, epsilon
from fl_shared.wire import Mark


class Ledger:
    """The ledger of one cohort in ``folder``. Safe for threads and processes."""

    def __init__(self, folder: Path, *, cohort: str) -> None:
        self._chain = Chain(folder, cohort=cohort)
        self._cohort = cohort

    def create(self) -> None:
        """Start the ledger of a new cohort; an existing one is verified and kept. Never called to repair one."""
        self._chain.create()

    def reserve(
        self,
        *,
        study: str,
        round: int,
        q: float,
        sigma: float,
        clip: float,
        steps: int,
        delta: float,
        cap: float,
        budget: float,
        parameter_set_hash: str,
        provenance_hash: str,
        base_digest: str,
        purpose: Purpose = "training",
        unit: Unit = "patient",
    ) -> int:
        """Pay for ``steps`` noised sums before they are computed; returns the number to commit or void.

        Args:
            study: identity of the study.
            round: round of the study.
            q: Poisson rate of patients.
            sigma: noise multiplier; must be positive.
            clip: L2 bound of what one unit adds to a sum.
            steps: noised sums.
            delta: of both limits: the smaller of the site's and the study's.
            cap: epsilon that all events of the cohort may reach.
            budget: epsilon that this study's events may reach: those of evaluations, or all others.
            parameter_set_hash: which parameters the noise covers.
            provenance_hash: where everything upstream of the release comes from.
            base_digest: digest of the arrays that the round starts from.
            purpose: what is released.
            unit: who is protected.

        Raises:
            ConsiliumError: a limit would be exceeded; this request was reserved before (serve its bytes, or void it);
                the ledger is missing or does not verify (exit code 16).
        """
        with self._chain.locked():
            rows = self._chain.read()
            if (known := _find(rows, purpose, study, round, base_digest)) is not None:
                raise self._chain.error(
                    f"round {round} from this base is {known.state} already (row {known.reservation})",
                    "Serve the bytes of the outbox; fresh noise would be a second release.",
                )
            if not sigma > 0:
                raise self._chain.error("sigma is 0", "A release without noise has no epsilon.")
            event, judges = Event(q, sigma, steps), purpose == "evaluation"
            paid = [row for row in rows if row.state == "RESERVED"]
            mine = [row.event for row in paid if row.study == study and (row.purpose == "evaluation") == judges]
            total = epsilon([*(row.event for row in paid), event], delta=delta)
            own = epsilon([*mine, event], delta=delta)
            for name, value, limit in (("site's cap", total, cap), ("study's budget", own, budget)):
                if not value <= limit:
                    raise self._chain.error(
                        f"round {round} would bring epsilon to {value:.4g}; the {name} is {limit:.4g}",
                        "The budget is spent for this cohort: no further release.",
                    )
            seq = len(rows) + 1
            row = Row(
                seq=seq,
                prev_hash=rows[-1].hash if rows else self._chain.genesis,
                cohort_id=self._cohort,
                unit=unit,
                mechanism="gaussian" if q == 1 else "poisson-sampled-gaussian",
                purpose=purpose,
                state="RESERVED",
                reservation=seq,
                study=study,
                round=round,
                base_digest=base_digest,
                q=q,
                sigma=sigma,
                clip=clip,
                steps=steps,
                parameter_set_hash=parameter_set_hash,
                provenance_hash=provenance_hash,
                delta=delta,
                eps_after=total,
                accountant=accountant_version(),
                time=_now(),
            )
            self._chain.append(row)
            return seq

    def commit(self, seq: int) -> None:
        """Record that the release of reservation ``seq`` is durable in the outbox."""
        self._settle(seq, "COMMITTED")

    def void(self, seq: int) -> None:
        """Record that reservation ``seq`` was never released. It stays paid: its computation may have been seen."""
        self._settle(seq, "VOID")

    def find(self, study: str, round: int, base_digest: str, *, purpose: Purpose = "training") -> Row | None:
        """The RESERVED or COMMITTED row of this very request, if there is one."""
        with self._chain.locked():
            return _find(self._chain.read(), purpose, study, round, base_digest)

    def spent(self, delta: float, study: str | None = None) -> float:
        """Epsilon at ``delta`` of all events of the cohort, reserved and void ones included.

        Of one study, of those that count against its ``privacy.epsilon``: judged patients have an epsilon of their own.
        """
        rows = (row for row in self.rows() if row.state == "RESERVED")
        events = [r.event for r in rows if study is None or (r.study == study and r.purpose != "evaluation")]
        return epsilon(events, delta=delta)

    def rows(self) -> tuple[Row, ...]:
        """All rows, verified."""
        with self._chain.locked():
            return tuple(self._chain.read())

    def mark(self) -> Mark:
        """Number and hash of the last row (0 and the hash of the cohort before any)."""
        rows = self.rows()
        return Mark(seq=len(rows), hash=rows[-1].hash if rows else self._chain.genesis)

    def hold(self, mark: Mark) -> None:
        """Check that the ledger holds a row that was told before.

        Raises:
            ConsiliumError: it does not, or it does not verify (exit code 16).
        """
        rows = self.rows()
        if mark.seq > len(rows):
            problem = f"{len(rows)} rows, but row {mark.seq} was told to the coordinator: rolled back, or an old copy"
        elif mark.hash != (rows[mark.seq - 1].hash if mark.seq else self._chain.genesis):
            problem = f"row {mark.seq} is not the one that was told to the coordinator: copied or forked"
        else:
            return
        raise self._chain.error(problem, "Restore the newest ledger of this cohort; nothing is released before.")

    def verify(self) -> None:
        """Check every row, the chain and the head.

        Raises:
            ConsiliumError: the ledger is missing, edited, reordered, cut, rolled back or forked (exit code 16).
        """
        self.rows()

    def _settle(self, seq: int, state: State) -> None:
        with self._chain.locked():
            rows = self._chain.read()
            fate = [row for row in rows if row.reservation == seq]
            if not fate or fate[-1].state != "RESERVED":
                now = fate[-1].state if fate else "unknown"
                raise self._chain.error(
                    f"reservation {seq} is {now}: it cannot become {state}", "Reserve a new release."
                )
            update = {"seq": len(rows) + 1, "prev_hash": rows[-1].hash, "state": state, "time": _now()}
            self._chain.append(fate[-1].model_copy(update=update))


def _find(rows: Sequence[Row], purpose: Purpose, study: str, round: int, base_digest: str) -> Row | None:
    asked = (purpose, study, round, base_digest)
    latest = {row.reservation: row for row in rows if (row.purpose, row.study, row.round, row.base_digest) == asked}
    return next((row for row in latest.values() if row.state != "VOID"), None)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
