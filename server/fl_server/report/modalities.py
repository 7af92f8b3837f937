"""What inputs are worth: the headline metric of every set of them, Shapley values, attention, groups of fields."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from fl_server.report import view
from fl_server.report.forest import Axis, Forest, Group, Line, around_zero
from fl_shared.metrics.table import METRICS
from fl_shared.results import Contribution, EvaluationRow, Importance, Results


@dataclass(frozen=True, kw_only=True)
class SetOfInputs:
    """One set of inputs: the headline metric at each site. uses: of each modality of the study, whether it is in it."""

    name: str
    leaky: bool
    headline: bool
    uses: tuple[bool, ...]
    cells: tuple[EvaluationRow | None, ...]


@dataclass(frozen=True, kw_only=True)
class Sets:
    """All sets of inputs that were judged, of the page's model; a column a site."""

    sites: tuple[str, ...]
    rows: tuple[SetOfInputs, ...]


def sets(results: Results, task: str) -> Sets:
    """The table of a task, the headline's inputs first, then by how many modalities they are."""
    wanted = {**view.headline_of(results, task), "model": view.main_model(results)}
    del wanted["modalities"]
    cells = {(r.site, r.modalities): r for r in view.plain(results.evaluation) if view.is_of(r, wanted)}
    told = {site for site, _ in cells}
    sites = tuple(site for site in view.site_order(results) if site in told)
    return Sets(
        sites=sites,
        rows=tuple(
            SetOfInputs(
                name=view.modality_name(results, task, modalities),
                leaky=view.is_leaky(results, task, modalities),
                headline=modalities == view.headline_modalities(results, task),
                uses=_uses(results, task, modalities),
                cells=tuple(cells.get((site, modalities)) for site in sites),
            )
            for modalities in view.modality_sets(results, task)
            if any(modalities == of for _, of in cells)
        ),
    )


def _uses(results: Results, task: str, modalities: str) -> tuple[bool, ...]:
    study = results.study
    if study.types[task] == "segmentation":
        return ()
    used = set(modalities.split("+"))
    if modalities == "all":
        used = set(study.modalities)
    elif modalities == "headline":
        used = set(study.modalities) - set(study.leaky)
    return tuple(name in used for name in study.modalities)


def contributions(results: Results, task: str) -> list[Forest]:
    """A forest a label and model: a group a modality, sites within; right of 0 the modality helps."""
    mine = [c for c in results.contributions if c.task == task]
    return _added(results, mine, of=lambda c: c.modality, order=results.study.modalities, what="modality")


def importance(results: Results, task: str) -> list[Forest]:
    """The same of groups of fields."""
    mine = [i for i in results.importance if i.task == task]
    return _added(results, mine, of=lambda i: i.group, order=(), what="group of fields")


def attention(results: Results) -> list[Forest]:
    """A forest a model: a group a modality, sites within; the line is even attention."""
    place, forests = view.site_order(results), []
    mine = sorted((a for a in results.attention if a.site in results.sites), key=lambda a: place.index(a.site))
    for model in dict.fromkeys(part.model for part in mine):
        chosen = [part for part in mine if part.model == model]
        names = [m for m in results.study.modalities if any(part.modality == m for part in chosen)]
        groups = [
            Group(name=m, lines=tuple(Line(name=a.site, told=a, kind=a.role) for a in chosen if a.modality == m))
            for m in names
        ]
        caption = "Part of the attention that each modality gets"
        caption += f", of {model}" if model != view.main_model(results) else ""
        axis = Axis(low=0.0, high=1.0, reference=1 / len(names))
        forests.append(Forest(caption=caption, groups=tuple(groups), axis=axis))
    return forests


Added = TypeVar("Added", Contribution, Importance)


def _added(
    results: Results, parts: Sequence[Added], *, of: Callable[[Added], str], order: Sequence[str], what: str
) -> list[Forest]:
    place = view.site_order(results)
    known = [part for part in parts if part.site in place and part.model != view.RECALIBRATED]
    mine: list[Added] = sorted(known, key=lambda part: place.index(part.site))
    forests = []
    for task, label, model, metric in dict.fromkeys((p.task, p.label, p.model, p.metric) for p in mine):
        chosen: list[Added] = [p for p in mine if (p.label, p.model, p.metric) == (label, model, metric)]
        groups = [
            Group(name=name, lines=tuple(Line(name=p.site, told=p, kind=p.role) for p in chosen if of(p) == name))
            for name in dict.fromkeys((*order, *map(of, chosen)))
        ]
        title = f"{task}, {label}" if label not in ("", "macro") else task
        forests.append(
            Forest(
                caption=f"{title}: what each {what} adds to the {METRICS[metric].title}"
                + (f" of {model}" if model != view.main_model(results) else ""),
                groups=tuple(group for group in groups if group.lines),
                axis=around_zero([line for group in groups for line in group.lines]),
            )
        )
    return forests
