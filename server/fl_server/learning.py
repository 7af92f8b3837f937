"""Learning curves: after a committed round the training sites judge the model on their held-out patients.

``runs/<study>/learning/round_0002.json`` holds what they told of round 2, so that a resumed run does not ask again. A
point that a site does not give is missing; it never ends a run. The last round is judged by the evaluation itself where
that judges the same arrays.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from fl_server import durable, runs
from fl_server.checkpoint import RunDirectory, Snapshot
from fl_server.collect import Life, ask
from fl_server.validation import Reason, validate_evaluation
from fl_shared.learning import LEARNED, MODEL, is_due, is_light, is_point, learned
from fl_shared.results import EvaluationRow, LearningPoint, SiteRound
from fl_shared.study import Study
from fl_shared.toml import Section
from fl_shared.wire import Arrays, Reply

_log = logging.getLogger(__name__)


class Judged(Section):
    """What the sites told after one round. ``committed`` is the SHA-256 of that round's manifest."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    round: int
    study: str
    committed: str
    sites: dict[str, SiteRound]
    points: tuple[LearningPoint, ...]


@dataclass(frozen=True, kw_only=True)
class Curves:
    """All points of a run, by round, and what the reader must know of those that are missing."""

    points: tuple[LearningPoint, ...] = ()
    notes: tuple[str, ...] = ()


def gather(life: Life, last: Snapshot) -> None:
    """Have the sites that took part in the round judge the model that it ended with, unless they did before.

    Raises:
        ConsiliumError: the disk refuses (CHECKPOINT).
    """
    study, number = life.study, last.manifest.round
    again = number == study.training.rounds and not runs.releases_local(study)  # the evaluation judges these arrays
    if study.judged is not None or again or not is_due(study, number) or _read(life.run, last.digest, number):
        return
    took_part = [site for site, outcome in sorted(last.manifest.sites.items()) if outcome.status == "accepted"]
    answers = ask(
        life,
        LEARNED,
        took_part,
        life.shared(last.model),
        round_number=number,
        check=lambda site, reply, extra: _reason(study, number, site, reply, extra),
    )
    rows = (row for _, (reply, _) in sorted(answers.accepted.items()) for row in reply.evaluation)
    made = Judged(
        schema=1,
        round=number,
        study=life.identity,
        committed=last.digest,
        sites=dict(answers.outcomes),
        points=tuple(_points(rows, number)),
    )
    path = _path(life.run, number)
    try:
        path.parent.mkdir(exist_ok=True)
        durable.write_file(path, made.model_dump_json(by_alias=True, indent=1).encode())
    except OSError as error:
        raise durable.disk_error(path, error) from error


def curves(study: Study, run: RunDirectory, *, last: Snapshot, final: Snapshot, judged: runs.Judgement) -> Curves:
    """The points of all rounds up to the last one; of that, where nobody was asked before, from the evaluation."""
    if not study.evaluation.every or study.judged is not None:
        return Curves()
    digests = run.digests(last=last)
    found = [one for number, digest in enumerate(digests) if (one := _read(run, digest, number)) is not None]
    points = [point for one in found for point in one.points]
    number = last.manifest.round
    if number not in {one.round for one in found} and not runs.holds_mean_encoders(final):
        points += _points(_headlines(study, number, judged.replies), number)
    return Curves(points=tuple(points), notes=tuple(_missing(found)))


def _reason(study: Study, number: int, site: str, reply: Reply, arrays: Arrays) -> Reason | None:
    """As of an evaluation, and nothing but the light form."""
    reason = validate_evaluation(reply, arrays, study=study, site=site, models=frozenset({MODEL}))
    return reason or (None if is_light(reply, study, round=number) else Reason.UNKNOWN_ROWS)


def _headlines(study: Study, number: int, replies: Mapping[str, Reply]) -> Iterator[EvaluationRow]:
    """The rows of an evaluation that a round's light form would hold."""
    tasks = learned(study, number)
    for site in (site for site in sorted(replies) if site in study.train_sites):
        for row in replies[site].evaluation:
            if row.task in tasks and is_point(row, tasks[row.task], study):
                yield row


def _points(rows: Iterable[EvaluationRow], number: int) -> Iterator[LearningPoint]:
    """Of each row with a value and an interval."""
    for row in rows:
        if row.value is not None and row.ci_low is not None and row.ci_high is not None:
            numbers = {"value": row.value, "ci_low": row.ci_low, "ci_high": row.ci_high}
            yield LearningPoint(
                round=number, site=row.site, task=row.task, label=row.label, metric=row.metric, **numbers
            )


def _missing(found: Sequence[Judged]) -> Iterator[str]:
    """A sentence a site and reason: when it was asked for a point and gave none."""
    lacking: dict[tuple[str, str], list[int]] = defaultdict(list)
    for one in found:
        for site, outcome in one.sites.items():
            if outcome.status != "accepted":
                lacking[site, f"{outcome.status} ({outcome.reason})"].append(one.round)
    for (site, why), numbers in sorted(lacking.items()):
        rounds = f"round{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
        yield f"{site} gave no point of its learning curve after {rounds}: {why}."


def _path(run: RunDirectory, number: int) -> Path:
    return run.path / LEARNED / f"round_{number:04d}.json"


def _read(run: RunDirectory, committed: str, number: int) -> Judged | None:
    """What was told after the round that was committed so; an unreadable file is made anew (sites repeat theirs)."""
    path = _path(run, number)
    try:
        found = Judged.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _log.warning("%s cannot be read (%s): it is made again", path, error)
        return None
    return found if (found.committed, found.round) == (committed, number) else None
