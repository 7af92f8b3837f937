"""The life of a study: hello, rounds, the final model, its judgement. A round counts when it is committed.

After a crash `run_study` is called again with the same arguments: it goes on after the last committed round, asks with
the same base digest (so that sites answer with the bytes already paid for) and ends in the same model, bit for bit.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from fl_server import learning, recalibration, runs, secure, statistics
from fl_server.aggregation import aggregate, weighted_mean
from fl_server.checkpoint import RunDirectory, Snapshot
from fl_server.collect import Answers, Life, Log, ask, greet, missed
from fl_server.events import Event
from fl_server.fleet import Fleet
from fl_server.ledgers import FILE as LEDGERS
from fl_server.ledgers import Ledgers
from fl_server.validation import COMMON, validate, validate_evaluation
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.judged import AGAINST, refuse_others
from fl_shared.models.systems.system import CHOOSE
from fl_shared.results import Results, RoundResult
from fl_shared.study import Study
from fl_shared.wire import Arrays, Code, digest


def run_study(
    *, study: Study, fleet: Fleet, run: RunDirectory, initial: Arrays, log: Log, ledgers: Path | None = None
) -> Results:
    """Run a study to its end, or continue it after the last committed round.

    Args:
        study: the plan; its identity must be the one that earlier rounds in ``run`` carry.
        fleet: the sites.
        run: where rounds are committed; a finished run returns its stored results without asking any site.
        initial: the whole initial model (all groups), the same at every call.
        log: takes the events of live progress, usually an `EventLog`.
        ledgers: file of the marks of the sites' ledgers; beside all runs when absent.

    Raises:
        ConsiliumError: sites refuse the study (NOT_APPROVED) or too few are there (UNREACHABLE); a phase missed its
            quorum (ROUND_FAILED, one fault a site); a commit failed or nothing verifies (CHECKPOINT); a second
            coordinator (ALREADY_RUNNING). Committed rounds stay; calling again resumes.
    """
    with run.lock():
        run.sweep()
        life = Life(
            study=study,
            identity=study.identity,
            fleet=fleet,
            run=run,
            log=log,
            initial=initial,
            initial_digest=digest(initial),
            ledgers=Ledgers(ledgers or run.path.parent / LEDGERS),
        )
        try:
            return _live(life)
        except Exception as error:
            code = error.code if isinstance(error, ConsiliumError) else ExitCode.FAILED
            log(Event(kind="run_failed", reason=code.name))
            raise


def _live(life: Life) -> Results:
    study, run = life.study, life.run
    if study.judged is not None:
        refuse_others(study, life.initial, file=str(run.path))
    last = _begin(life)
    if (done := run.read_results()) is not None and done.study.hash == life.identity:
        return done
    life.log(
        Event(
            kind="run_started",
            round=last.manifest.round,
            rounds=life.rounds,
            sites={name: plan.role for name, plan in study.sites.items()},
            budget=study.privacy.epsilon,
        )
    )
    greet(life, fresh=last.manifest.round == 0)
    statistics.gather(life)
    learning.gather(life, last)  # a round that was committed just before a crash
    while last.manifest.round < life.rounds and (committed := _round(life, last)) is not None:
        last = committed
        learning.gather(life, last)
    final = last if study.judged is not None else _final(life, last)
    judged = recalibration.judge_recalibrated(life, final, _judge_model(life, final))
    told = learning.curves(study, run, last=last, final=final, judged=judged)
    judged = replace(judged, notes=(*judged.notes, *told.notes), learning=told.points)
    results = runs.assemble(
        study=study,
        history=run.history(last=last),
        last=last,
        final=final,
        judged=judged,
        statistics=statistics.read(run.path, identity=life.identity),
    )
    run.write_results(results)
    life.log(Event(kind="run_finished", round=last.manifest.round, rounds=life.rounds))
    return results


def _begin(life: Life) -> Snapshot:
    """The last committed round; commits the initial model as round 0 when there is none."""
    last = life.run.latest(study=life.identity)
    if last is None:
        return life.run.commit(
            previous=None, study=life.identity, model=life.initial, state={}, sites={}, seconds=0.0, epsilon={}
        )
    if digest(life.run.initial(study=life.identity).model) != life.initial_digest:
        raise ConsiliumError(
            f"{life.run.path}: the initial model differs from the one this run began with. Resume with the package "
            "versions of the first start, or use a new run directory.",
            code=ExitCode.CHECKPOINT,
        )
    return last


def _round(life: Life, last: Snapshot) -> Snapshot | None:
    """One round; None when sites whose privacy budget is spent keep it from its quorum (a clean end)."""
    study, number, began = life.study, last.manifest.round + 1, time.monotonic()
    base = life.shared(last.model)
    changing = {name: array for name, array in base.items() if study.releases(name, number)}
    answers, updates = _updates(life, number, base=base, changing=changing)
    if len(answers.accepted) < study.rounds.quorum:
        seconds = time.monotonic() - began
        life.run.record_failure(
            RoundResult(round=number, outcome="failed", seconds=seconds, sites=dict(answers.outcomes))
        )
        life.log(Event(kind="round_failed", round=number, rounds=study.training.rounds, seconds=seconds))
        spent = sum(outcome.reason == Code.BUDGET for outcome in answers.outcomes.values())
        if number > 1 and len(answers.accepted) + spent >= study.rounds.quorum:
            return None
        raise missed(life, f"Round {number}", answers, needed=study.rounds.quorum)
    life.log(Event(kind="phase", status="aggregate", round=number))
    changed, state = _combined(study, number, base=changing, updates=updates, state=last.state)
    life.log(Event(kind="phase", status="commit", round=number))
    seconds = time.monotonic() - began
    committed = life.run.commit(
        previous=last,
        study=life.identity,
        model={**base, **changed},
        state=state,
        sites=answers.outcomes,
        seconds=seconds,
        epsilon=runs.highest(last.manifest.epsilon, answers.epsilon),
    )
    life.log(Event(kind="round_committed", round=number, rounds=study.training.rounds, seconds=seconds))
    return committed


def _updates(life: Life, number: int, *, base: Arrays, changing: Arrays) -> tuple[Answers, Mapping[str, Arrays]]:
    """What came of a round's question, and the accepted updates; of secure aggregation, their mean under `TOGETHER`."""
    if life.study.privacy.aggregation == "secure":
        return secure.gather(life, number, base=base, changing=changing)
    answers = ask(
        life,
        "train",
        life.study.train_sites,
        base,
        round_number=number,
        check=lambda site, _, update: validate(update, base=changing, study=life.study, site=site),
    )
    return answers, {site: update for site, (_, update) in answers.accepted.items()}


def _combined(
    study: Study, number: int, *, base: Arrays, updates: Mapping[str, Arrays], state: Arrays
) -> tuple[Arrays, Arrays]:
    """The arrays that a round changes, and the optimiser's state; every phase begins with an optimiser of its own."""
    if study.phase(number).objective == CHOOSE:  # what the sites found is no step in some direction
        return weighted_mean(study=study, base=base, updates=updates), {}
    within = study.phase_round(number)
    return aggregate(study=study, round_number=within, base=base, updates=updates, state=state if within > 1 else {})


def _final(life: Life, last: Snapshot) -> Snapshot:
    """The whole final model: shared groups of the last round over the mean of the sites' encoders or the initial ones.

    Sites release encoders only after the study's last round, so a study that ended early keeps the initial ones. A
    site that cannot read a modality returns its initial encoder of it, which stays in the mean with its weight.
    """
    if (found := life.run.load_final(last=last)) is not None:
        return found
    study, shared = life.study, life.shared(last.model)
    local = {name: array for name, array in life.initial.items() if study.is_local(name)}
    if not (runs.releases_local(study) and local and last.manifest.round == study.training.rounds):
        whole = {**life.initial, **shared}
        return life.run.commit_final(last=last, model=whole, sites={}, epsilon=last.manifest.epsilon)
    number = last.manifest.round
    answers = ask(
        life,
        "encoders",
        study.train_sites,
        {},
        round_number=number,
        check=lambda site, _, update: validate(update, base=local, study=study, site=site, rounds=number),
    )
    if len(answers.accepted) < study.rounds.quorum:
        raise missed(life, "The release of the encoders", answers, needed=study.rounds.quorum)
    updates = {site: update for site, (_, update) in answers.accepted.items()}
    mean = weighted_mean(study=study, base=local, updates=updates)
    epsilon = runs.highest(last.manifest.epsilon, answers.epsilon)
    whole = {**life.initial, **mean, **shared}
    return life.run.commit_final(last=last, model=whole, sites=answers.outcomes, epsilon=epsilon)


def _judge_model(life: Life, final: Snapshot) -> runs.Judgement:
    """Every site, internal and external, judges the same arrays: shared groups, and the mean encoders if there are."""
    study = life.study
    arrays = runs.judged_arrays(study, final, final)
    compared = {AGAINST} if study.judged is not None and study.judged.against is not None else set()
    answers = ask(
        life,
        "evaluate",
        sorted(study.sites),
        arrays,
        round_number=final.manifest.round,
        check=lambda site, reply, extra: validate_evaluation(
            reply, extra, study=study, site=site, models=COMMON | compared
        ),
    )
    needed = study.rounds.quorum if study.judged is not None else 1
    if len(answers.accepted) < needed:
        raise missed(life, "The evaluation", answers, needed=needed)
    replies = {site: reply for site, (reply, _) in answers.accepted.items()}
    return runs.Judgement(outcomes=answers.outcomes, replies=replies, epsilon=answers.epsilon)
