"""What secure aggregation, distributed noise and site-level privacy cannot be combined with, and why."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from fl_shared.errors import Fault, misfit

if TYPE_CHECKING:
    from fl_shared.study import Study

FEWEST = 3  # sites of a sum: of two, each would learn the other's update from the next round's model
ROBUST = ("fedmedian", "fedtrimmedavg")  # not means: Krum and its kin are not offered at all


def threshold(sites: int) -> int:
    """Shares that open a secret: two thirds of the training sites, so that no two disjoint sets can open both secrets
    of a site unless a third of the sites help the coordinator."""
    return max(FEWEST, math.ceil(2 * sites / 3))


def unfit_secure(study: Study) -> Iterator[Fault]:
    """Every fault; ``file`` is left empty."""
    if study.privacy.aggregation == "secure":
        yield from _aggregation(study)
    if study.privacy.noise == "distributed":
        yield from _distributed(study)
    if study.privacy.mode == "site":
        yield from _site(study)


def _aggregation(study: Study) -> Iterator[Fault]:
    sites, plan = len(study.train_sites), study.training
    if sites < FEWEST:
        problem = f"of a sum over {sites} training site(s) each learns the other's update"
        yield misfit("privacy.aggregation", problem, f"Have at least {FEWEST}, or use 'plain'", value="secure")
    elif study.rounds.quorum < (least := threshold(sites)):
        problem = f"a sum over fewer than {least} of {sites} sites is never opened (two thirds, and at least {FEWEST})"
        yield misfit("rounds.quorum", problem, f"Raise it to {least}", value=str(study.rounds.quorum))
    if plan.strategy in ROBUST:
        problem = "needs every update by itself, and the coordinator sees their sum only"
        yield misfit("training.strategy", problem, "Use a mean (fedavg), or aggregation 'plain'", value=plan.strategy)
    if study.rounds.max_norm is not None:
        problem = "no update can be judged by itself, since the coordinator sees their sum only"
        yield misfit("rounds.max_norm", problem, "Remove it", value=f"{study.rounds.max_norm:g}")
    if study.keeps_local and plan.final_encoders == "mean":
        problem = "each site would release what it has of its own by itself after the last round"
        mend = "Set it to 'initial', or share the encoders"
        yield misfit("training.final_encoders", problem, mend, value=plan.final_encoders)


def _distributed(study: Study) -> Iterator[Fault]:
    """The sum of the sites' noises protects only what depends on the sites through their sum."""
    plan, mode = study.training, study.privacy.mode
    if study.privacy.aggregation != "secure":
        problem = "each site's own noise is too small for its update to be seen by itself"
        yield misfit("privacy.noise", problem, "Set privacy.aggregation = 'secure'", value="distributed")
    if mode == "none":
        yield misfit("privacy.noise", "mode 'none' has no noise", "Remove it", value="distributed")
    if mode != "patient":
        return
    if plan.steps > 1:
        problem = "a second step would start from what the first one left at each site under its own noise alone"
        yield misfit("training.steps", problem, "Set steps = 1, or noise = 'local'", value=str(plan.steps))
    if plan.optimizer != "sgd":
        problem = "its step is no linear function of the clipped sum, so the mean of the steps is none of the mean"
        yield misfit("training.optimizer", problem, "Use 'sgd', or noise = 'local'", value=plan.optimizer)
    if study.keeps_local:
        kept = "encoders" if plan.encoders == "local" else "local"
        problem = "what stays at a site carries its own noise alone into later rounds"
        value = plan.encoders if kept == "encoders" else ", ".join(plan.local)
        yield misfit(f"training.{kept}", problem, "Share or freeze it, or use noise = 'local'", value=value)


def _site(study: Study) -> Iterator[Fault]:
    """Site-level noise is put on the update that leaves, and on nothing else."""
    plan = study.training
    if study.keeps_local:
        kept = "encoders" if plan.encoders == "local" else "local"
        problem = "what stays at a site is not noised in mode 'site', and its metrics (or its mean) would be released"
        value = plan.encoders if kept == "encoders" else ", ".join(plan.local)
        yield misfit(f"training.{kept}", problem, "Share or freeze it", value=value)
    counts = {"statistics": study.statistics is not None, "evaluation.recalibrate": study.evaluation.recalibrate}
    for key in (key for key, asked in counts.items() if asked):
        problem = "noise of its counts hides a patient, not a site"
        yield misfit(key, problem, "Remove it, or use mode 'patient'")
