"""What a run says at its end: the results, and in its notes everything that a reader must not overlook."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from fl_server.checkpoint import Snapshot
from fl_shared.results import PrivacyResult, Results, RoundResult, SiteResult, SiteRound, StudyResult
from fl_shared.study import Study
from fl_shared.wire import Code, Reply


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """How the sites answered the evaluation; ``replies`` holds the accepted ones."""

    outcomes: Mapping[str, SiteRound]
    replies: Mapping[str, Reply]
    epsilon: Mapping[str, float]


def releases_local(study: Study) -> bool:
    """Whether the study plans to release the mean of what each site has of its own once, after its last round."""
    return study.keeps_local and study.training.final_encoders == "mean"


def holds_mean_encoders(final: Snapshot) -> bool:
    """Whether the final model's encoders are the mean of the sites' (its manifest then names who released them)."""
    return bool(final.manifest.sites)


def highest(*reports: Mapping[str, float]) -> dict[str, float]:
    """Highest epsilon that each site has reported: it never falls, whatever is lost or repeated."""
    sites = sorted({site for report in reports for site in report})
    return {site: max(report[site] for report in reports if site in report) for site in sites}


def assemble(
    *, study: Study, history: Sequence[RoundResult], last: Snapshot, final: Snapshot, judged: Judgement
) -> Results:
    """``results.json`` of a run.

    Args:
        study: the plan.
        history: committed and failed rounds in order.
        last: the last committed round.
        final: the final model (outcome of the encoders' release).
        judged: the evaluation.
    """
    replies = [judged.replies[site] for site in sorted(judged.replies)]
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
            package=version("consilium"),
        ),
        privacy=PrivacyResult(
            mode=study.privacy.mode,
            delta=study.privacy.delta,
            epsilon_budget=study.privacy.epsilon,
            epsilon_spent=highest(last.manifest.epsilon, final.manifest.epsilon, judged.epsilon),
        ),
        sites={
            name: SiteResult(role=plan.role, declared_patients=plan.patients)
            for name, plan in sorted(study.sites.items())
        },
        rounds=tuple(history),
        evaluation=tuple(row for reply in replies for row in reply.evaluation),
        curves=tuple(curve for reply in replies for curve in reply.curves),
        notes=tuple(_notes(study, history, last, final, judged)),
    )


def _notes(
    study: Study, history: Sequence[RoundResult], last: Snapshot, final: Snapshot, judged: Judgement
) -> Iterator[str]:
    yield from study.warnings()
    if (trained := last.manifest.round) < study.training.rounds:
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
    if study.keeps_local and not holds_mean_encoders(final):
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
