"""What each modality is worth: the headline metric of every set of inputs, and exact Shapley values."""

from __future__ import annotations

from dataclasses import dataclass

from fl_server.report import view
from fl_server.report.forest import Forest, Group, Line, around_zero
from fl_shared.metrics.table import METRICS
from fl_shared.results import EvaluationRow, Results


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
    mine = [
        c for c in results.contributions if c.task == task and c.site in results.sites and c.model != view.RECALIBRATED
    ]
    place = view.site_order(results)
    forests = []
    for label, model, metric in dict.fromkeys((c.label, c.model, c.metric) for c in mine):
        chosen = [c for c in mine if (c.label, c.model, c.metric) == (label, model, metric)]
        groups = [
            Group(
                name=name,
                lines=tuple(
                    Line(name=c.site, told=c, kind=c.role)
                    for c in sorted(chosen, key=lambda c: place.index(c.site))
                    if c.modality == name
                ),
            )
            for name in dict.fromkeys((*results.study.modalities, *(c.modality for c in chosen)))
        ]
        title = f"{task}, {label}" if label not in ("", "macro") else task
        forests.append(
            Forest(
                caption=f"{title}: what each modality adds to the {METRICS[metric].title}"
                + (f" of {model}" if model != view.main_model(results) else ""),
                groups=tuple(group for group in groups if group.lines),
                axis=around_zero([line for group in groups for line in group.lines]),
            )
        )
    return forests
