"""Intercept-only recalibration of a finished model, and its judgement beside the raw one.

Clipping keeps the order of risks and ruins their level. One shift a label is solved from the training sites' counts of
logits and events, so that as many events are expected as there were (calibration in the large; Steyerberg et al. 2004),
and added to the head's output bias. A slope is not fitted: under noise it can turn round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_server import runs
from fl_server.checkpoint import Snapshot
from fl_server.collect import Life, ask
from fl_server.validation import validate_counts, validate_evaluation
from fl_shared.budget import budget
from fl_shared.counts import LOGITS, output_biases, recalibration_schema, recalibration_sensitivity, risky_tasks
from fl_shared.histograms import kept
from fl_shared.results import Findings, Shift, SiteRound
from fl_shared.study import Study
from fl_shared.wire import Arrays, Reply

Floats = NDArray[np.float64]
WIDTH = (LOGITS.high - LOGITS.low) / LOGITS.cells
MIDDLES: Floats = LOGITS.low + WIDTH * (np.arange(LOGITS.size, dtype=np.float64) - 0.5)  # of cells, ends included
FARTHEST = 8.0  # a shift changes odds by at most a factor of 3,000
HALVINGS = 60
MODELS = frozenset({"recalibrated"})
STAYS = "too few events or patients are told, or the noise is larger than the shift"


@dataclass(frozen=True, kw_only=True)
class Refit:
    """The shift of one label's logits. expected, observed: events in the counts, before it. noise: of the shift."""

    shift: float
    expected: float
    observed: float
    noise: float


def refit(cells: NDArray[Any], events: float, *, noise: float) -> Refit | None:
    """The shift after which the counts expect as many events as there were.

    The expectation rises with the shift, so it is found by halving. A shift below twice its own noise is 0.

    Args:
        cells: (size,) of logits, summed over sites.
        events: summed likewise.
        noise: standard deviation of each of these sums; 0 without.

    Returns:
        None when the counts (less noise) hold no patients, no events, or nobody without.
    """
    held = kept(cells, noise=noise)
    total = held.sum()
    if not noise < total or not 0 < events < total:
        return None
    low, high = -FARTHEST, FARTHEST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if held @ _risk(middle) < events else (low, middle)
    risk = _risk(shift := (low + high) / 2)
    spread = noise * np.sqrt(1 + risk @ risk) / max(float(held @ (risk * (1 - risk))), 1e-12)
    return Refit(
        shift=shift if abs(shift) > 2 * spread else 0.0,
        expected=float(held @ _risk(0.0)),
        observed=float(events),
        noise=float(spread),
    )


def _risk(shift: float) -> Floats:
    return 1 / (1 + np.exp(-(MIDDLES + shift)))


def judge_recalibrated(life: Life, final: Snapshot, judged: runs.Judgement) -> runs.Judgement:
    """The judgement of the raw model, and beside it that of the recalibrated one, which is committed beside it."""
    if not life.study.evaluation.recalibrate:
        return judged
    made = life.run.load_recalibrated(final=final) or _recalibrated(life, final)
    if isinstance(made, str):
        return replace(judged, notes=(*judged.notes, f"Not recalibrated: {made}."))
    study = life.study
    answers = ask(
        life,
        "evaluate",
        sorted(study.sites),
        runs.judged_arrays(study, made, final),
        round_number=final.manifest.round,
        model="recalibrated",
        check=lambda site, reply, extra: validate_evaluation(reply, extra, study=study, site=site, models=MODELS),
    )
    moved = tuple(shifts(study, final.model, made.model))
    return replace(
        judged,
        replies=_beside(judged.replies, {site: reply for site, (reply, _) in answers.accepted.items()}),
        epsilon=runs.highest(judged.epsilon, made.manifest.epsilon, answers.epsilon),
        notes=(*judged.notes, *_notes(made, answers.outcomes, moved)),
        shifts=moved,
    )


def _beside(raw: Mapping[str, Reply], recalibrated: Mapping[str, Reply]) -> dict[str, Reply]:
    """Each site's results of both models."""
    both = {}
    for site, reply in raw.items():
        other: Findings = recalibrated.get(site, Findings())
        parts = {key: (*getattr(reply, key), *getattr(other, key)) for key in ("evaluation", "curves", "contributions")}
        both[site] = reply.model_copy(update=parts)
    return both


def _recalibrated(life: Life, final: Snapshot) -> Snapshot | str:
    """The recalibrated model, committed; or why there is none."""
    study, sent = life.study, runs.judged_arrays(life.study, final, final)
    biases = output_biases(study, sent)
    if not biases:
        return "no task has an intercept of its own in the common model"
    schema, noise = recalibration_schema(study, biases), planned_noise(study, biases)
    answers = ask(
        life,
        "recalibrate",
        study.train_sites,
        sent,
        round_number=final.manifest.round,
        check=lambda site, _, counts: validate_counts(counts, schema=schema, study=study, site=site, noise=noise),
    )
    if (found := len(answers.accepted)) < (needed := study.rounds.quorum):
        return f"{found} sites gave counts, {needed} are needed{_missing(answers.outcomes)}"
    counts = [arrays for _, (_, arrays) in sorted(answers.accepted.items())]
    moved = shifted(study, final.model, biases, counts, noise=noise)
    if not moved:
        return f"no intercept moves: {STAYS}"
    model = {**final.model, **moved}
    return life.run.commit_recalibrated(final=final, model=model, sites=answers.outcomes, epsilon=answers.epsilon)


def _notes(made: Snapshot, judged: Mapping[str, SiteRound], moved: tuple[Shift, ...]) -> Iterator[str]:
    for what, outcomes in (("gave no counts for recalibration", made.manifest.sites), ("did not judge it", judged)):
        if missing := _missing(outcomes):
            yield f"Recalibrated model, {what}{missing}."
    for part in moved:
        if not part.shift:
            yield f"The intercept of {' '.join(filter(None, (part.task, part.label)))} stays: {STAYS}."


def _missing(outcomes: Mapping[str, SiteRound]) -> str:
    lacking = [f"{site} ({of.reason})" for site, of in outcomes.items() if of.status != "accepted"]
    return f": {', '.join(lacking)}" if lacking else ""


def planned_noise(study: Study, tasks: Mapping[str, str]) -> float:
    """Standard deviation of the noise in each count of a site; 0 without. A site with a stricter delta adds more."""
    event = budget(study, study.train_sites[0], delta=study.privacy.delta).recalibration
    return 0.0 if event is None else event.sigma * recalibration_sensitivity(study, tasks)


def shifted(
    study: Study, model: Arrays, biases: Mapping[str, str], counts: list[Arrays], *, noise: float
) -> dict[str, NDArray[np.generic]]:
    """The output biases that move."""
    moved: dict[str, NDArray[np.generic]] = {}
    for task, name in biases.items():
        bias = np.array(model[name], copy=True)
        for row in range(len(study.tasks[task].told)):
            told = [cells[f"tasks.{task}"][row] for cells in counts if noise or cells[f"tasks.{task}"][row].any()]
            total = np.sum(told, axis=0) if told else np.zeros(LOGITS.size + 1)
            found = refit(total[:-1], float(total[-1]), noise=noise * len(told) ** 0.5)
            if found is not None:
                bias[row] += np.asarray(found.shift, dtype=bias.dtype)
        if not np.array_equal(bias, model[name]):
            moved[name] = bias
    return moved


def shifts(study: Study, before: Arrays, after: Arrays) -> Iterator[Shift]:
    """How far the intercept of each label moved."""
    for task, name in output_biases(study, after).items():
        for row, label in enumerate(risky_tasks(study)[task].told):
            moved = float(after[name][row]) - float(before[name][row])
            yield Shift(task=task, label=label, shift=round(moved, 6))
