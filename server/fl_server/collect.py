"""Ask the sites and judge what comes back: every asked site ends with one outcome, in fixed words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fl_server.checkpoint import RunDirectory
from fl_server.events import Event
from fl_server.fleet import Answer, Arrived, Fleet, Missing
from fl_server.ledgers import Ledgers
from fl_server.validation import Reason
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.results import SiteRound
from fl_shared.secure import model_digest
from fl_shared.study import Study
from fl_shared.wire import Arrays, Code, Kind, ModelName, Reply, Request

Log = Callable[[Event], None]
Check = Callable[[str, Reply, Arrays], Reason | None]
"""Judges one site's ok reply and arrays: the reason to reject it, or None."""


@dataclass(frozen=True, kw_only=True)
class Life:
    """What every step needs. ``initial`` is the whole model of round 0; ``withdrawn`` are sites not asked any more."""

    study: Study
    identity: str
    fleet: Fleet
    run: RunDirectory
    log: Log
    initial: Arrays
    initial_digest: str
    ledgers: Ledgers
    withdrawn: set[str] = field(default_factory=set)

    def request(self, kind: Kind, arrays: Arrays, *, round_number: int = 0, model: ModelName = "federated") -> Request:
        """A request of this study; ``arrays`` are what travels with it, ``model`` their name where they are judged."""
        return Request(
            kind=kind,
            study=self.identity,
            round=round_number,
            base=model_digest(arrays),
            initial=self.initial_digest,
            model=model,
        )

    def marked(self, request: Request, sites: Iterable[str]) -> dict[str, Request]:
        """The request to each site, with the last mark of its ledger where it pays."""
        marks = self.ledgers.marks() if self.study.pays else {}
        return {site: request.model_copy(update={"ledger": marks.get(site)}) for site in sites}

    def unsound(self, request: Request, site: str, reply: Reply) -> Reason | None:
        """Why the ledger behind an answer is not the one that this site told of before."""
        known = reply.site == site and (reply.approved or reply.status != "ok")
        return self.ledgers.judge(site, request.ledger, reply) if self.study.pays and known else None

    @property
    def rounds(self) -> int:
        """Rounds of training: none where a finished model is judged."""
        return 0 if self.study.judged is not None else self.study.training.rounds

    def shared(self, model: Arrays) -> Arrays:
        """The arrays that travel every round, in name order."""
        return {name: model[name] for name in sorted(model) if self.study.is_shared(name)}


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What came back in one phase: every asked site's outcome, the accepted answers, epsilon as far as reported."""

    outcomes: Mapping[str, SiteRound]
    accepted: Mapping[str, Answer]
    epsilon: Mapping[str, float]


def greet(life: Life, *, fresh: bool) -> None:
    """Say hello to every site.

    A fresh study begins only when no site refuses it: approving is cheap, a missing hospital is not. A resumed one
    goes on while the quorum holds, since a site may withdraw. Absent sites stay in the plan and are asked every round.

    Raises:
        ConsiliumError: a site refuses a fresh study (NOT_APPROVED); fewer training sites than the quorum (UNREACHABLE).
    """
    study = life.study
    life.log(Event(kind="phase", status="hello"))
    requests = life.marked(life.request("hello", {}), sorted(study.sites))
    answers = life.fleet.hello(requests, deadline=study.rounds.deadline, arrived=_arrived(life))
    outcomes = {}
    for site, request in requests.items():
        answer = answers.get(site, Missing(reason="no-reply"))
        outcomes[site] = outcome = _greeting(answer, site=site, life=life, request=request)
        if outcome.reason == Code.WITHDRAWN:
            life.withdrawn.add(site)
        life.log(Event(kind="site", site=site, status=outcome.status, reason=outcome.reason))
    refusals = {site: outcome for site, outcome in outcomes.items() if outcome.status == "rejected"}
    if fresh and refusals:
        raise ConsiliumError(
            f"Study '{study.name}' was not started: {len(refusals)} site(s) refuse it",
            code=ExitCode.NOT_APPROVED,
            faults=faults(life, refusals, mend="Have the site approve this study (fl-client approve), then run again"),
        )
    needed = study.train_sites or study.external_sites  # the latter alone judge a finished model
    ready = [site for site in needed if outcomes[site].status == "accepted"]
    if len(ready) < study.rounds.quorum:
        raise ConsiliumError(
            f"{len(ready)} {'training' if study.train_sites else 'judging'} site(s) are there, "
            f"{study.rounds.quorum} are needed (rounds.quorum)",
            code=ExitCode.UNREACHABLE,
            faults=faults(life, outcomes, mend="Start or mend the client there, then run again"),
        )


def _greeting(answer: Answer | Missing, *, site: str, life: Life, request: Request) -> SiteRound:
    """``rejected`` is a refusal that a person must mend; ``failed`` and ``absent`` may pass by themselves."""
    if isinstance(answer, Missing):
        return SiteRound(status="absent", reason=answer.reason)
    reply, _ = answer
    if reply.site != site:
        return SiteRound(status="rejected", reason=Reason.OTHER_SITE)
    if (reason := life.unsound(request, site, reply)) is not None:
        return SiteRound(status="rejected", reason=reason)
    if reply.status == "failed":
        return SiteRound(status="failed", reason=_code(reply))
    if reply.status == "refused":
        return SiteRound(status="rejected", reason=_code(reply))
    if not reply.approved:
        return SiteRound(status="rejected", reason=Code.NOT_APPROVED)
    if reply.role != life.study.sites[site].role:
        return SiteRound(status="rejected", reason=Code.WRONG_ROLE)
    return SiteRound(status="accepted")


def ask(
    life: Life,
    kind: Kind,
    sites: Iterable[str],
    arrays: Arrays,
    *,
    round_number: int,
    check: Check,
    model: ModelName = "federated",
) -> Answers:
    """Ask the sites and judge every answer; each site ends with one outcome. Who withdrew is asked no more."""
    names, rounds = tuple(sites), life.rounds
    asked = [site for site in names if site not in life.withdrawn]
    life.log(Event(kind="phase", status=kind, round=round_number, rounds=rounds))
    for site in asked:
        life.log(Event(kind="site", site=site, status="asked"))
    requests = life.marked(life.request(kind, arrays, round_number=round_number, model=model), asked)
    answers = life.fleet.ask(
        {site: (request, arrays) for site, request in requests.items()},
        deadline=life.study.rounds.deadline,
        arrived=_arrived(life),
    )
    outcomes = {site: SiteRound(status="failed", reason=Code.WITHDRAWN) for site in names}
    accepted, epsilon = {}, {}
    for site in asked:
        answer = answers.get(site, Missing(reason="no-reply"))
        unsound = None if isinstance(answer, Missing) else life.unsound(requests[site], site, answer[0])
        outcome = SiteRound(status="rejected", reason=unsound) if unsound else _outcome(answer, site=site, check=check)
        outcomes[site] = outcome
        if outcome.reason == Code.WITHDRAWN:
            life.withdrawn.add(site)
        if not isinstance(answer, Missing):
            if outcome.status == "accepted":
                accepted[site] = answer
            if answer[0].site == site and answer[0].epsilon is not None:
                epsilon[site] = max(0.0, answer[0].epsilon)
        life.log(Event(kind="site", site=site, status=outcome.status, reason=outcome.reason, epsilon=epsilon.get(site)))
    return Answers(outcomes=outcomes, accepted=accepted, epsilon=epsilon)


def faults(life: Life, outcomes: Mapping[str, SiteRound], *, mend: str) -> list[Fault]:
    """One fault a site that was not accepted."""
    away = "Train without it (fl-server without STUDY.toml {site}), or have it approve the study anew"
    mends = {site: away.format(site=site) if site in life.withdrawn else mend for site in outcomes}
    return [
        Fault(
            file=life.study.name,
            key=f"sites.{site}",
            value=outcome.status,
            problem=outcome.reason,
            mend=f"{mends[site]}.",
        )
        for site, outcome in outcomes.items()
        if outcome.status != "accepted"
    ]


def missed(life: Life, what: str, answers: Answers, *, needed: int) -> ConsiliumError:
    """What ends a run (until it is resumed) when too few answers were accepted."""
    return ConsiliumError(
        f"{what} of study '{life.study.name}' failed: {len(answers.accepted)} answer(s) accepted, {needed} needed. "
        "Committed rounds are kept",
        code=ExitCode.ROUND_FAILED,
        faults=faults(life, answers.outcomes, mend="Mend the site (its own log says more), then resume"),
    )


def _outcome(answer: Answer | Missing, *, site: str, check: Check) -> SiteRound:
    if isinstance(answer, Missing):
        return SiteRound(status="absent", reason=answer.reason)
    reply, arrays = answer
    if reply.site != site:
        return SiteRound(status="rejected", reason=Reason.OTHER_SITE)
    if reply.status != "ok":
        return SiteRound(status="failed", reason=_code(reply))
    reason = check(site, reply, arrays)
    return SiteRound(status="rejected", reason=reason) if reason else SiteRound(status="accepted")


def _code(reply: Reply) -> str:
    return reply.code or f"{reply.status}-without-code"


def _arrived(life: Life) -> Arrived:
    return lambda site: life.log(Event(kind="site", site=site, status="answered"))
