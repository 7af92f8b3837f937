"""The same study without one site, to be trained anew: after a site withdrew, or asked for its updates to be gone."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_server.checkpoint import RunDirectory, Snapshot
from fl_shared import toml
from fl_shared.accounting import Event, epsilon
from fl_shared.budget import Budget, budget
from fl_shared.errors import ConsiliumError, ExitCode, Fault, nearest
from fl_shared.results import RoundResult
from fl_shared.study import Study, load_study
from fl_shared.written import write_model

LONGEST = 48  # characters of a study's name


@dataclass(frozen=True, kw_only=True)
class Payment:
    """What retraining costs one remaining site, as far as this coordinator knows: its own ledger decides.

    spent: as it reported in the old run; None when it never did. total: of the old run's events and the new study's,
    composed (never the sum of two epsilons).
    """

    spent: float | None
    total: float


@dataclass(frozen=True, kw_only=True)
class Without:
    """What was written, and what becomes of the old run. ``quorum`` is (before, now)."""

    study: str
    name: str
    hash: str
    site: str
    out: str
    quorum: tuple[int, int]
    rounds: int
    contained_in: tuple[int, ...]
    in_final_mean: bool
    delta: float
    payments: Mapping[str, Payment]


def write_without(study_path: Path, site: str, *, out: Path, runs: Path) -> Without:
    """Write the study of ``study_path`` without ``site`` to ``out``, under a new name.

    Args:
        study_path: the study as it was run.
        site: is left out.
        out: the new file; never replaced.
        runs: folder of all runs, where the old one is looked up.

    Raises:
        ConsiliumError: no such site, or the study cannot be run without it (10); ``out`` exists (2); the old run's
            folder is of another version of the study, or does not verify (19).
    """
    old = load_study(study_path)
    if site not in old.sites:
        fault = Fault(
            file=str(study_path), key="sites", value=site, problem="no such site", mend=nearest(site, old.sites)
        )
        raise ConsiliumError(f"study '{old.name}' has no site '{site}'", code=ExitCode.STUDY, faults=[fault])
    if not set(old.train_sites) - {site}:
        mend = "Nobody could train; write a study with other sites."
        fault = Fault(file=str(study_path), key="sites", value=site, problem="the only training site", mend=mend)
        raise ConsiliumError(f"study '{old.name}' cannot do without '{site}'", code=ExitCode.STUDY, faults=[fault])
    if out.exists():
        raise ConsiliumError(f"{out} exists already. Choose another --out.", code=ExitCode.USAGE)
    new = toml.validated(_body(study_path, old, site), Study, path=study_path, code=ExitCode.STUDY)
    history, last, final = _past(old, runs)
    write_model(out, new, header=f"Study '{old.name}' ({old.identity}) without {site}, to be trained anew.")
    return Without(
        study=old.name,
        name=new.name,
        hash=new.identity,
        site=site,
        out=str(out),
        quorum=(old.rounds.quorum, new.rounds.quorum),
        rounds=last.manifest.round if last is not None else 0,
        contained_in=tuple(
            r.round for r in history if r.outcome == "committed" and r.round and _took_part(r.sites, site)
        ),
        in_final_mean=final is not None and _took_part(final.manifest.sites, site),
        delta=new.privacy.delta,
        payments=_payments(old, new, last, judged=final is not None),
    )


def told(found: Without) -> list[str]:
    """The result in sentences."""
    lines = [f"{found.out}: study '{found.name}' ({found.hash}), the study '{found.study}' without {found.site}"]
    if found.quorum[0] != found.quorum[1]:
        lines.append(f"quorum {found.quorum[0]} lowered to {found.quorum[1]}: no more training sites remain")
    if found.contained_in:
        mean = "; so does the mean of the encoders" if found.in_final_mean else ""
        numbers = ", ".join(map(str, found.contained_in))
        lines.append(f"of the old run's {found.rounds} rounds these contain updates of {found.site}: {numbers}{mean}")
    else:
        lines.append(f"no committed round of the old run contains an update of {found.site}")
    lines.append("the remaining sites approve the new study, and train all of its rounds anew")
    for site, payment in found.payments.items():
        spent = "not reported" if payment.spent is None else f"{payment.spent:.4g}"
        lines.append(
            f"{site} pays anew from its own ledger: epsilon {spent} spent in the old run, {payment.total:.4g} with the "
            f"new one (delta {found.delta:g}); its cap may refuse"
        )
    return lines


def _body(path: Path, old: Study, site: str) -> dict[str, Any]:
    body = tomllib.loads(path.read_text(encoding="utf-8"))
    del body["sites"][site]
    remaining = sum(plan.role == "train" for name, plan in old.sites.items() if name != site)
    body["name"] = f"{old.name[: LONGEST - len('_without_') - len(site)]}_without_{site}"[:LONGEST]
    if remaining < old.rounds.quorum:
        body["rounds"]["quorum"] = remaining
    return body


def _past(study: Study, runs: Path) -> tuple[Sequence[RoundResult], Snapshot | None, Snapshot | None]:
    """History, last round and final model of the study's run, as far as there is one."""
    run = RunDirectory(runs / study.name)
    last = run.latest(study=study.identity)
    if last is None:
        return (), None, None
    return run.history(last=last), last, run.load_final(last=last)


def _payments(old: Study, new: Study, last: Snapshot | None, *, judged: bool) -> dict[str, Payment]:
    if new.privacy.epsilon is None:
        return {}
    delta, done = new.privacy.delta, last.manifest.round if last is not None else 0
    reported = last.manifest.epsilon if last is not None else {}
    found = {}
    for site in new.train_sites:
        past = _spent(budget(old, site, delta=delta), done=done, of=old.training.rounds, judged=judged)
        plan = budget(new, site, delta=delta)
        planned = [event for event in (plan.training, plan.statistics, plan.recalibration) if event is not None]
        found[site] = Payment(spent=reported.get(site), total=epsilon([*past, *planned], delta=delta))
    return found


def _spent(plan: Budget, *, done: int, of: int, judged: bool) -> list[Event]:
    """The events that a run of ``done`` rounds has used."""
    if plan.training is None or not done:
        return []
    training = plan.training._replace(steps=plan.training.steps // of * done)
    return [training, *filter(None, (plan.statistics, plan.recalibration if judged else None))]


def _took_part(outcomes: Mapping[str, Any], site: str) -> bool:
    return site in outcomes and outcomes[site].status == "accepted"
