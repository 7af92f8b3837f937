"""The report as one offline HTML file that a clinician can read, print and keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from fl_server.report import counted, figures, recalibrated, timeline, view
from fl_server.report.metric_table import MetricGroup, metric_groups
from fl_shared.metrics.table import METRICS, Metric
from fl_shared.page import environment
from fl_shared.results import Curve, EvaluationRow, Results, RoundResult
from fl_shared.study import TIMED

MAX_ROUNDS_SHOWN = 200


@dataclass(frozen=True, kw_only=True)
class Picture:
    """An inline SVG with the words that stand for it."""

    svg: Markup
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class ModalityRow:
    """One set of inputs: the headline metric at each site."""

    name: str
    leaky: bool
    headline: bool
    cells: tuple[EvaluationRow | None, ...]


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """All that the report shows of one task."""

    name: str
    type: str
    metric: Metric  # the headline's
    labels: tuple[str, ...]
    headline_labels: tuple[str, ...]
    headline: tuple[EvaluationRow, ...]
    forest: Picture | None
    curves: tuple[Picture, ...]
    timelines: tuple[Picture, ...]
    columns: tuple[tuple[str, str], ...]  # site and model
    modalities: tuple[ModalityRow, ...]
    groups: tuple[MetricGroup, ...]
    notes: tuple[str, ...]

    @property
    def means(self) -> bool:
        """Whether the headline is a mean over labels."""
        return len(self.labels) > 1 and bool(self.labels[0])

    @property
    def has_curves(self) -> bool:
        """Whether curves can be drawn for this type of task."""
        return self.type in METRICS["auroc"].types

    @property
    def is_timed(self) -> bool:
        """Whether the outcome is a time to an event, so that it has a place on the risk timeline."""
        return self.type in TIMED

    def of_role(self, role: str) -> list[EvaluationRow]:
        """Headline rows of the external (``external``) or the training (``train``) sites."""
        return [row for row in self.headline if row.role == role]


def write_report(results: Results, path: Path) -> None:
    """Write the report of a run to ``path``; it needs no network, no script and no other file."""
    models = {row.model for row in results.evaluation}
    raw = models - {view.RECALIBRATED}
    page = (
        environment("fl_server.report")
        .get_template("template.html.j2")
        .render(
            results=results,
            view=view,
            order=view.site_order(results),
            tasks=[_task(results, name, index, several=len(raw) > 1) for index, name in enumerate(results.study.tasks)],
            metrics=METRICS,
            counted=counted,
            compared=recalibrated.SHOWN,
            recalibrated=recalibrated.pairs(results),
            models=sorted(models),
            rounds=_shown(results.rounds),
        )
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _task(results: Results, name: str, index: int, *, several: bool) -> TaskView:
    headline = view.headline_rows(results, name)
    rows = [row for row in results.evaluation if row.task == name]
    groups = metric_groups(results, name)
    columns = tuple((group.site, group.model) for group in groups)
    return TaskView(
        name=name,
        type=results.study.types[name],
        metric=METRICS[view.headline_metric(results, name)],
        labels=results.study.tasks[name],
        headline_labels=results.study.headline.get(name) or results.study.tasks[name],
        headline=tuple(headline),
        forest=_forest(results, headline, index, several=several) if headline else None,
        curves=tuple(_curves(results, name, index)),
        timelines=tuple(_timelines(results, name, index)),
        columns=columns,
        modalities=tuple(
            _modality(results, rows, name, modalities, columns) for modalities in view.modality_sets(results, name)
        ),
        groups=tuple(groups),
        notes=tuple(dict.fromkeys(note for g in groups for p in g.parts for line in p.lines for note in line.notes)),
    )


def _modality(
    results: Results, rows: Sequence[EvaluationRow], task: str, modalities: str, columns: Sequence[tuple[str, str]]
) -> ModalityRow:
    wanted = {
        "label": view.headline_label(results, task),
        "metric": view.headline_metric(results, task),
        "modalities": modalities,
    }
    return ModalityRow(
        name=view.modality_name(results, task, modalities),
        leaky=view.is_leaky(results, task, modalities),
        headline=modalities == view.headline_modalities(results, task),
        cells=tuple(view.find(rows, site=site, model=model, **wanted) for site, model in columns),
    )


def _forest(results: Results, rows: Sequence[EvaluationRow], index: int, *, several: bool) -> Picture:
    said = "; ".join(f"{row.site} ({view.ROLE_NAMES[row.role]}) {view.estimate(row)}" for row in rows)
    svg = figures.forest(rows, _looks(results), several_models=several, key=f"forest{index}")
    return Picture(
        svg=Markup(svg),
        alt=f"{METRICS[rows[0].metric].title} with 95 % interval at each site: {said}.",
        caption="Each mark is one site's own estimate on patients that the model never saw; the line is its 95 % "
        "interval. Diamonds: hospitals that never trained. Circles: held-out patients of training hospitals.",
    )


def _curves(results: Results, task: str, index: int) -> list[Picture]:
    """A picture a label that has curves, in the order of the task's labels; headline inputs only."""
    place = {name: at for at, name in enumerate(view.site_order(results))}
    wanted = view.headline_modalities(results, task)
    found: dict[str, list[Curve]] = {label: [] for label in results.study.tasks[task]}
    for curve in results.curves:
        raw = curve.model != view.RECALIBRATED and curve.kind != "bands"
        if curve.task == task and curve.modalities == wanted and curve.site in place and raw:
            found.setdefault(curve.label, []).append(curve)
    pictures = []
    for at, (label, curves) in enumerate(found.items()):
        if not curves:
            continue
        curves.sort(key=lambda curve: place[curve.site])
        svg = figures.curves(curves, _looks(results), key=f"curves{index}-{at}")
        sites = ", ".join(dict.fromkeys(curve.site for curve in curves))
        named = f"{task}, {label}" if label else task
        pictures.append(
            Picture(
                svg=Markup(svg),
                alt=f"ROC, precision-recall and calibration curves of {named} at {sites}. "
                "The numbers are in the table of all metrics.",
                caption=label or task,
            )
        )
    return pictures


def _timelines(results: Results, task: str, index: int) -> list[Picture]:
    """The risk timeline of an outcome; of competing ones a picture a cause."""
    roles = {name: view.ROLE_NAMES[site.role] for name, site in results.sites.items()}
    rows = {site: f"{site} ({roles[site]})" for site in timeline.sites(results)}
    days, top = timeline.days(results), timeline.highest(results)
    pictures = []
    for at, (label, curves) in enumerate(timeline.timelines(results, task).items()):
        svg = timeline.figure(curves, rows, days=days, top=top, key=f"timeline{index}-{at}")
        named = f"{task}, {label}" if label else task
        alt = f"Predicted and observed risk of {named}, by day and band of risk. {timeline.words(curves)}"
        pictures.append(Picture(svg=Markup(svg), alt=alt, caption=named))
    return pictures


def _looks(results: Results) -> dict[str, figures.Look]:
    external = frozenset(name for name, site in results.sites.items() if site.role == "external")
    return figures.looks(view.site_order(results), external)


def _shown(rounds: Sequence[RoundResult]) -> list[RoundResult]:
    """All rounds, or of a very long run the last ones and those in which something went wrong."""
    last = len(rounds) - MAX_ROUNDS_SHOWN
    return [
        entry
        for index, entry in enumerate(rounds)
        if index >= last or entry.outcome == "failed" or any(site.status != "accepted" for site in entry.sites.values())
    ]
