"""What a run says at its end: the results, and in its notes everything that a reader must not overlook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import accumulate

from fl_server.checkpoint import Snapshot
from fl_server.synthesis import synthesized
from fl_shared.results import (
    Findings,
    LearningPoint,
    PhaseResult,
    PrivacyResult,
    Results,
    RoundResult,
    Shift,
    SiteResult,
    SiteRound,
    StudyResult,
)
from fl_shared.statistics import Statistics
from fl_shared.study import JudgedPlan, Study
from fl_shared.trust import trust
from fl_shared.wire import Arrays, Code, Reply


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How the sites answered the evaluation; ``replies`` holds the accepted ones."""

    outcomes: Mapping[str, SiteRound]
    replies: Mapping[str, Reply]
    epsilon: Mapping[str, float]
    notes: tuple[str, ...] = ()
    shifts: tuple[Shift, ...] = ()
    learning: tuple[LearningPoint, ...] = ()


def releases_local(study: Study) -> bool:
    """Whether the study plans to release the mean of what each site has of its own once, after its last round."""
    return study.keeps_local and study.training.final_encoders == "mean"


def holds_mean_encoders(final: Snapshot) -> bool:
    """Whether the final model's encoders are the mean of the sites' (its manifest then names who released them)."""
    return bool(final.manifest.sites)


def judged_arrays(study: Study, model: Snapshot, final: Snapshot) -> Arrays:
    """What sites judge of a model: shared groups, and the mean of the local ones if the final model has it.

    A finished model of another study travels whole.
    """
    if study.judged is not None:
        return model.model
    whole = holds_mean_encoders(final)
    return {n: a for n, a in model.model.items() if study.is_shared(n) or (whole and study.is_local(n))}


def highest(*reports: Mapping[str, float]) -> dict[str, float]:
    """Highest epsilon that each site has reported: it never falls, whatever is lost or repeated."""
    sites = sorted({site for report in reports for site in report})
    return {site: max(report[site] for report in reports if site in report) for site in sites}


def assemble(
    *,
    study: Study,
    history: Sequence[RoundResult],
    last: Snapshot,
    final: Snapshot,
    judged: Judgement,
    statistics: Statistics | None = None,
) -> Results:
    """``results.json`` of a run.

    Args:
        study: the plan.
        history: committed and failed rounds in order.
        last: the last committed round.
        final: the final model (outcome of the encoders' release).
        judged: the evaluation.
        statistics: of a study that counts.
    """
    replies = [judged.replies[site] for site in sorted(judged.replies)]
    found = Findings.model_validate(
        {part: tuple(one for reply in replies for one in getattr(reply, part)) for part in Findings.model_fields}
    )
    over_sites = synthesized(
        found.evaluation, found.curves, roles={name: plan.role for name, plan in study.sites.items()}
    )
    return Results(
        schema=1,
        study=StudyResult(
            name=study.name,
            hash=final.manifest.study,
            system=study.model.system,
            synthetic=study.synthetic,
            tasks={name: task.told for name, task in study.tasks.items()},
            types={name: task.type for name, task in study.tasks.items()},
            headline={name: task.headline or task.told for name, task in study.tasks.items()},
            modalities=tuple(study.modalities),
            leaky=tuple(name for name, modality in study.modalities.items() if modality.leaky),
            hidden_of=study.evaluation.hidden_of,
            package=version("consilium"),
            judged=study.judged.study if study.judged is not None else "",
            against=study.judged.against.study if study.judged is not None and study.judged.against is not None else "",
            phases=tuple(_phases(study)),
        ),
        privacy=PrivacyResult(
            mode=study.privacy.mode,
            aggregation=study.privacy.aggregation,
            noise=study.privacy.noise,
            trust=trust(mode=study.privacy.mode, aggregation=study.privacy.aggregation, noise=study.privacy.noise),
            delta=study.privacy.delta,
            epsilon_budget=study.privacy.epsilon,
            evaluation_epsilon=study.evaluation.epsilon,
            epsilon_spent=highest(last.manifest.epsilon, final.manifest.epsilon, judged.epsilon),
        ),
        sites={
            name: SiteResult(role=plan.role, declared_patients=plan.patients)
            for name, plan in sorted(study.sites.items())
        },
        rounds=tuple(history),
        **{part: getattr(found, part) for part in Findings.model_fields},
        summaries=over_sites.summaries,
        gaps=over_sites.gaps,
        pooled=over_sites.pooled,
        shifts=judged.shifts,
        learning=judged.learning,
        statistics=statistics,
        notes=tuple(_notes(study, history, last, final, judged)),
    )


def _phases(study: Study) -> Iterator[PhaseResult]:
    """None where nothing is trained."""
    plans = study.training.phases if study.judged is None else ()
    lasts = accumulate(plan.rounds for plan in plans)
    for plan, last in zip(plans, lasts, strict=True):
        yield PhaseResult(name=plan.name, first=last - plan.rounds + 1, last=last)


def _notes(
    study: Study, history: Sequence[RoundResult], last: Snapshot, final: Snapshot, judged: Judgement
) -> Iterator[str]:
    yield from study.warnings()
    yield from _withdrawals(study, history, final, judged)
    if study.judged is not None:
        yield from _finished(study.judged)
    elif (trained := last.manifest.round) < study.training.rounds:
        stop = next(result for result in reversed(history) if result.outcome == "failed")
        spent = [site for site, outcome in stop.sites.items() if outcome.reason == Code.BUDGET]
        yield (
            f"Training ended after round {trained} of {study.training.rounds}: the privacy budget is exhausted at "
            f"{', '.join(spent)}."
        )
    yield from (
        f"The encoders of {site} are not in the released mean: {outcome.status} ({outcome.reason})."
        for site, outcome in final.manifest.sites.items()
        if outcome.status != "accepted"
    )
    if study.keeps_local and study.judged is None and not holds_mean_encoders(final):
        encoders = ["encoders"] if study.training.encoders == "local" else []
        kept = " and ".join([*encoders, *study.training.local])
        yield (
            f"Local {kept} were not released: external sites judge with the initial {kept}, training sites with "
            "their own, so internal and external results are not of one model."
        )
    yield from (
        f"{site} gave no evaluation: {outcome.status} ({outcome.reason})."
        for site, outcome in judged.outcomes.items()
        if outcome.status != "accepted"
    )
    yield from judged.notes


def _finished(plan: JudgedPlan) -> Iterator[str]:
    refitted = ", with refitted intercepts," if plan.model == "recalibrated" else ""
    yield (
        f"Nothing was trained: the finished model {plan.arrays[:12]}{refitted} of study {plan.study[:12]} was judged, "
        f"which {', '.join(plan.trained_by)} had trained. What is said of privacy is of that training."
    )
    if plan.against is not None:
        yield (
            f"'against' is the model {plan.against.arrays[:12]} of study {plan.against.study[:12]}, trained by "
            f"{', '.join(plan.against.trained_by)}, judged on the same patients."
        )


def _withdrawals(study: Study, history: Sequence[RoundResult], final: Snapshot, judged: Judgement) -> Iterator[str]:
    """Sites that withdrew and did not come back, and what the model holds of them."""
    outcomes = [*(result.sites for result in history), final.manifest.sites, judged.outcomes]
    for site in sorted(study.sites):
        told = [of[site] for of in outcomes if site in of]
        if not told or told[-1].reason != Code.WITHDRAWN:
            continue
        holds = [r.round for r in history if r.outcome == "committed" and r.round and _accepted(r.sites, site)]
        if not holds:
            yield f"{site} withdrew; no round contains an update of it."
            continue
        mean = " and the released mean of the encoders" if _accepted(final.manifest.sites, site) else ""
        yield (
            f"{site} withdrew after round {holds[-1]}; its updates are in {_listed(holds)}{mean}. To train without "
            f"them: fl-server without STUDY.toml {site}."
        )


def _accepted(outcomes: Mapping[str, SiteRound], site: str) -> bool:
    return site in outcomes and outcomes[site].status == "accepted"


def _listed(rounds: Sequence[int]) -> str:
    """``rounds 1..4``, or each by its number where some are missing in between."""
    if list(rounds) == list(range(rounds[0], rounds[-1] + 1)) and len(rounds) > 2:
        return f"rounds {rounds[0]}..{rounds[-1]}"
    return f"round{'s' if len(rounds) > 1 else ''} {', '.join(map(str, rounds))}"
