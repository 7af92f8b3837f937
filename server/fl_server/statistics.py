"""Federated statistics: ask once before the first round, add the sites' counts up, say what they tell.

All here is post-processing of what the sites released. Counts that mean fewer than 10 patients are not told on.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from fl_server import durable
from fl_server.collect import Life, ask, missed
from fl_server.validation import validate_counts
from fl_shared import concepts
from fl_shared.budget import budget
from fl_shared.counts import (
    FieldCount,
    counted_tasks,
    field_counts,
    statistics_schema,
    statistics_sensitivity,
)
from fl_shared.histograms import NOISE_SDS, kept, wilson
from fl_shared.metrics.disclosure import MIN_CELL
from fl_shared.results import SiteRound
from fl_shared.statistics import CountedSite, FieldStatistics, LabelStatistics, Quantile, Statistics
from fl_shared.study import Study, TaskPlan
from fl_shared.wire import Arrays
from fl_shared.written import dumps

FILE = "statistics.json"
SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_log = logging.getLogger(__name__)


def gather(life: Life) -> None:
    """Have ``statistics.json`` of a study that counts; asks the sites unless it is there.

    Raises:
        ConsiliumError: too few sites answered (ROUND_FAILED), or the disk refuses (CHECKPOINT).
    """
    study = life.study
    if study.statistics is None or read(life.run.path, identity=life.identity) is not None:
        return
    schema, noise = statistics_schema(study), planned_noise(study)
    answers = ask(
        life,
        "statistics",
        study.train_sites,
        {},
        round_number=0,
        check=lambda site, _, counts: validate_counts(counts, schema=schema, study=study, site=site, noise=noise),
    )
    if len(answers.accepted) < study.rounds.quorum:
        raise missed(life, "The statistics", answers, needed=study.rounds.quorum)
    counts = {site: arrays for site, (_, arrays) in answers.accepted.items()}
    found = summarise(study, counts, outcomes=answers.outcomes)
    path = life.run.path / FILE
    try:
        durable.write_file(path, found.model_dump_json(by_alias=True, indent=1).encode())
    except OSError as error:
        raise durable.disk_error(path, error) from error


def read(folder: Path, *, identity: str) -> Statistics | None:
    """What was written for the study of this identity; an unreadable file is made anew (sites repeat their bytes)."""
    try:
        found = Statistics.model_validate_json((folder / FILE).read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _log.warning("%s cannot be read (%s): it is made again", folder / FILE, error)
        return None
    return found if found.identity == identity else None


def planned_noise(study: Study) -> float:
    """Standard deviation of the noise in each count of a site; 0 without. A site with a stricter delta adds more."""
    event = budget(study, study.train_sites[0], delta=study.privacy.delta).statistics
    return 0.0 if event is None else event.sigma * statistics_sensitivity(study)


def summarise(study: Study, counts: Mapping[str, Arrays], *, outcomes: Mapping[str, SiteRound]) -> Statistics:
    """What the accepted sites' counts say together."""
    noise, plan = planned_noise(study), study.statistics
    total = _Total(counts=counts, noise=noise)
    labels = tuple(label for task, of in counted_tasks(study).items() for label in total.labels(task, of))
    return Statistics(
        schema=1,
        study=study.name,
        identity=study.identity,
        package=version("consilium"),
        concepts=concepts.digest(),
        synthetic=study.synthetic,
        provenance="dp" if noise else "local",
        epsilon=plan.epsilon if plan else None,
        delta=study.privacy.delta if noise else None,
        sensitivity=statistics_sensitivity(study) if noise else None,
        sites={
            site: CountedSite(status=of.status, reason=of.reason, noise=noise if site in counts else 0.0)
            for site, of in outcomes.items()
        },
        fields=tuple(total.field(field) for field in field_counts(study)),
        labels=labels,
        lines=_lines(study, labels),
        notes=tuple(_notes(study, counts, noise=noise)),
    )


class _Total:
    """The sum over sites, and how far it can be trusted."""

    def __init__(self, *, counts: Mapping[str, Arrays], noise: float) -> None:
        self._counts = [counts[site] for site in sorted(counts)]
        self._noise = noise * len(self._counts) ** 0.5
        self._off = 0.0 if noise else (MIN_CELL - 1.0) * len(self._counts)  # of a sum of cells: small ones are moved

    def field(self, field: FieldCount) -> FieldStatistics:
        """One histogram."""
        whole = np.sum([arrays[field.name] for arrays in self._counts], axis=0).astype(np.float64)
        held, what = kept(whole[:-1], noise=self._noise, least=MIN_CELL), field.concept
        told = [self._told(count) for count in held]
        body: dict[str, Any] = {
            "modality": field.modality,
            "field": what.name,
            "title": what.title,
            "unit": what.unit,
            "log": what.log,
            "missing": self._told(whole[-1]),
            "n": self._told(held.sum(), cells=len(held)),
        }
        if field.codes:
            return FieldStatistics(**body, codes=field.codes, counts=tuple(told))
        return FieldStatistics(
            **body,
            edges=_in_unit(field, field.bins.edges),
            counts=tuple(told[1:-1]),
            below=told[0],
            above=told[-1],
            quantiles=tuple(self._quantiles(field, whole[:-1], held)),
        )

    def _quantiles(
        self, field: FieldCount, whole: NDArray[np.float64], held: NDArray[np.float64]
    ) -> Iterator[Quantile]:
        if self._told(held.sum(), cells=len(held)) is None:
            return
        for share in SHARES:
            ends = field.bins.bounds(whole, share, off=self._off, noise=self._noise)
            value, low, high = _in_unit(field, np.array([field.bins.quantile(held, share), *ends]))
            yield Quantile(share=share, value=value, low=min(low, value), high=max(high, value))

    def labels(self, task: str, plan: TaskPlan) -> Iterator[LabelStatistics]:
        """The share of each label: of a site with a small cell of it, nothing is known without noise."""
        arrays = [counts[f"tasks.{task}"] for counts in self._counts]
        if plan.type == "multiclass":
            classes = [cells[:-1] for cells in arrays if self._noise or cells[:-1].all()]
            total = np.sum(classes, axis=0) if classes else np.zeros(len(plan.labels))
            for label, events in zip(plan.told, total, strict=True):
                yield self._label(task, label, float(events), float(total.sum()), sites=len(classes))
            return
        for row, label in enumerate(plan.told):
            sides = [cells[row, :2] for cells in arrays if self._noise or cells[row, :2].all()]
            without, events = np.sum(sides, axis=0) if sides else (0, 0)
            yield self._label(task, label, float(events), float(without + events), sites=len(sides))

    def _label(self, task: str, label: str, events: float, n: float, *, sites: int) -> LabelStatistics:
        told, others = self._told(events), self._told(n - events)
        place = {"task": task, "label": label, "sites": sites}
        if told is None or others is None:
            nothing = {"events": None, "share": None, "low": None, "high": None}
            return LabelStatistics.model_validate(place | {"n": self._told(n, cells=2)} | nothing)
        low, high = wilson(events, n, noise=self._noise)
        share = round(events / n, 4)
        return LabelStatistics.model_validate(
            place | {"n": told + others, "events": told, "share": share, "low": low, "high": high}
        )

    def _told(self, count: float, *, cells: int = 1) -> int | None:
        """The sum of some cells as a whole number: of 10 patients or more, and of more than the noise."""
        return round(count) if count >= max(MIN_CELL, NOISE_SDS * self._noise * cells**0.5) else None


def _in_unit(field: FieldCount, scaled: NDArray[np.float64]) -> tuple[float, ...]:
    """In the concept's own unit, to nine digits."""
    return tuple(float(f"{value:.9g}") for value in concepts.unscale(scaled, field.concept))


def _lines(study: Study, labels: tuple[LabelStatistics, ...]) -> str:
    """Weights of classes for a later study: of positives without over with, of exclusive classes 1 over their share."""
    tasks: dict[str, dict[str, list[float]]] = {}
    for task, plan in counted_tasks(study).items():
        shares = [label.share for label in labels if label.task == task]
        known = [share for share in shares if share is not None]
        if len(known) < len(shares):
            continue
        each = [1 / (len(known) * p) if plan.type == "multiclass" else (1 - p) / p for p in known]
        tasks[task] = {"weights": [float(f"{weight:.3g}") for weight in each]}
    return dumps({"constants_from": [study.identity], **({"tasks": tasks} if tasks else {})})


def _notes(study: Study, counts: Mapping[str, Arrays], *, noise: float) -> Iterator[str]:
    if lacking := sorted(set(study.train_sites) - set(counts)):
        yield f"Not counted: {', '.join(lacking)}."
    if noise:
        yield (
            f"Noised: each count of a site has noise of standard deviation {noise:.3g} (a site with a stricter delta "
            "than the study's adds more); bounds are 95 % ones of the noise. Counts below 10, or below two standard "
            "deviations of their sum, are not told."
        )
    else:
        yield (
            "NOT noised: exact counts. At each site cells of fewer than 10 patients are told with their neighbours or "
            "withheld. A study that promises privacy to these patients may take no constants from here."
        )
