"""One thing upstream of a study's releases; pretrained encoders are judged by what this site knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fl_client.privacy.chain import Row
from fl_client.privacy.traces import Traces
from fl_shared.bundle import Origin
from fl_shared.study import Study
from fl_shared.toml import Section


class Upstream(Section):
    """Something that the releases of a study depend on, and what is known of it."""

    what: str  # group of tensors, or statistic
    provenance: Literal["public", "disjoint", "dp", "local"]
    why: str
    chain: tuple[str, ...]  # from the release back to it
    rows: tuple[int, ...] = ()  # reservations of the ledger that pay for it, where it is another study's
    broken: str = ""  # why no promise can rest on it

    def __str__(self) -> str:
        paid = f", ledger rows {self.rows[0]} to {self.rows[-1]}" if self.rows else ""
        return f"{self.what}: {self.provenance}, {self.broken or self.why}{paid}"


def paid_for(rows: Sequence[Row], study: str, purpose: str) -> list[Row]:
    """The last row of every reservation of a study for a purpose."""
    latest = {row.reservation: row for row in rows if row.study == study and row.purpose == purpose}
    return list(latest.values())


@dataclass(frozen=True, kw_only=True)
class Origins:
    """Judges trainings that happened before a study.

    site: name of this site, a cohort; rows: its ledger; traces: its other records.
    """

    site: str
    study: Study
    rows: Sequence[Row]
    traces: Traces

    def judged(self, what: str, origin: Origin, chain: tuple[str, ...]) -> Upstream:
        """One training that an encoder came from."""
        paid = paid_for(self.rows, origin.study, "training") if origin.study else []
        trace = (self.traces.trained(origin.study) if origin.study else "") or ("ledger" if paid else "")
        here = bool(trace) or origin.cohort == self.site
        where = f"study {origin.study[:12]}" if origin.study else "pretrained elsewhere"
        provenance, why, broken = origin.provenance, where, ""
        match origin.provenance:
            case "local" if here or not origin.cohort or origin.cohort in self.study.sites:
                whom = f"patients of {origin.cohort}" if origin.cohort and not here else "this cohort"
                broken = f"pretrained locally without DP on {whom}"
            case "local":
                provenance, why = "disjoint", f"{where} of {origin.cohort}, which has no part in this study"
            case "dp" if here:
                why, broken = f"{where}, paid from this ledger", self._unpaid(origin, paid)
            case "dp" if origin.study:
                why = f"{where}, paid from the ledger of {origin.cohort}: no patient of this site"
            case "dp":
                broken = "said to be pretrained with DP, but no description names its ledger"
            case said:
                why = f"{where}, the word of the study's author"
                if trace:
                    broken = f"said to be '{said}', but {where} trained on this cohort without DP ({trace})"
        if not broken or not self._matters(origin):
            return Upstream(what=what, provenance=provenance, why=why, chain=chain, rows=_numbers(paid))
        return Upstream(what=what, provenance="local", why=why, chain=chain, broken=broken)

    def _unpaid(self, origin: Origin, paid: Sequence[Row]) -> str:
        """Why the ledger does not show what a pretraining claims."""
        rounds = {row.round for row in paid if row.state == "COMMITTED"}
        if lacking := sorted(set(range(1, max(1, origin.rounds) + 1)) - rounds):
            claim = "said to be pretrained with DP on this cohort"
            return f"{claim}, but its ledger does not pay for round {lacking[0]} of study {origin.study[:12]}"
        if self.study.privacy.mode == "site" and any(row.unit != "site" for row in paid):
            return "pretrained with DP for each patient, but this study promises it for the whole site"
        return ""

    def _matters(self, origin: Origin) -> bool:
        """Whether somebody is promised privacy whom that training saw: trained, or (with epsilon) judged patients."""
        plan = self.study.evaluation
        if self.study.privacy.mode != "none":
            return True
        judged = self.study.sites[self.site].role == "external" or origin.split != plan.split
        return plan.epsilon is not None and judged


def _numbers(rows: Sequence[Row]) -> tuple[int, ...]:
    return tuple(row.reservation for row in rows)
