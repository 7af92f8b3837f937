"""The report as one offline HTML file that a clinician can read, print and keep."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fl_server.report import (
    cohort,
    counted,
    curves,
    decision,
    differences,
    hidden,
    incidence,
    learning,
    modalities,
    recalibrated,
    rounds,
    sites,
    subgroups,
    summary,
    timeline,
    tripod,
    view,
)  # fmt: skip
from fl_server.report.curves import LabelCurves
from fl_server.report.forest import Forest
from fl_server.report.metric_table import MetricTable, metric_tables
from fl_server.report.style import Picture
from fl_shared.metrics.table import METRICS, Metric
from fl_shared.page import environment
from fl_shared.results import Results
from fl_shared.study import TIMED

SECTIONS = {
    "summary": "Summary",
    "study": "Study and sites",
    "cohort": "Cohort",
    "quality": "Data quality",
    "sites": "Site by site",
    "curves": "Curves",
    "decision": "Decision curves",
    "timeline": "Risk over time",
    "recalibration": "Recalibration",
    "subgroups": "Subgroups",
    "modalities": "Modalities",
    "hidden": "Hidden inputs",
    "differences": "Models compared",
    "statistics": "Statistics",
    "privacy": "Privacy",
    "learning": "Learning curves",
    "rounds": "Rounds",
    "tripod": "TRIPOD+AI",
    "card": "Model card",
    "notes": "Notes and limits",
    "metrics": "All metrics",
}
"""Sections in order: their ids, which are the names of their templates too, and their titles in the contents."""


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """All that the report shows of one task, section by section."""

    name: str
    type: str
    metric: Metric  # the headline's
    labels: tuple[str, ...]
    digest: summary.Digest
    forest: Forest | None
    curves: tuple[LabelCurves, ...]
    decision: tuple[LabelCurves, ...]
    timelines: tuple[Picture, ...]
    courses: tuple[incidence.Course, ...]
    subgroups: Forest | None
    sets: modalities.Sets
    contributions: tuple[Forest, ...]
    importance: tuple[Forest, ...]
    hidden: hidden.Sweep | None
    differences: tuple[Forest, ...]
    learning: learning.Learning | None
    tables: tuple[MetricTable, ...]

    @property
    def has_curves(self) -> bool:
        """Whether curves can be drawn for this type of task."""
        return self.type in METRICS["auroc"].types

    @property
    def is_timed(self) -> bool:
        """Whether the outcome is a time to an event, so that it has a place on the risk timeline."""
        return self.type in TIMED


def write_report(results: Results, path: Path) -> None:
    """Write the report of a run to ``path``; it needs no network, no script and no other file."""
    page = environment("fl_server.report").get_template("template.html.j2").render(**_filled(results))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding="utf-8")


def _filled(results: Results) -> dict[str, object]:
    """What the templates are filled with."""
    return {
        "results": results,
        "study": results.study,
        "privacy": results.privacy,
        "view": view,
        "order": view.site_order(results),
        "sections": SECTIONS,
        "tasks": [_task(results, name, index) for index, name in enumerate(results.study.tasks)],
        "metrics": METRICS,
        "model": view.main_model(results),
        "models": sorted({row.model for row in results.evaluation}),
        "cohort": cohort,
        "counted": counted,
        "hidden_share": hidden.share,
        "hidden_what": hidden.what(results),
        "attention": modalities.attention(results),
        "compared": recalibrated.SHOWN,
        "recalibrated": recalibrated.pairs(results),
        "rounds": rounds.shown(results.rounds),
        "strip": rounds.strip(results),
        "checklist": tripod.checklist(results),
        "authors": tripod.AUTHORS,
    }


def _task(results: Results, name: str, index: int) -> TaskView:
    return TaskView(
        name=name,
        type=results.study.types[name],
        metric=METRICS[view.headline_metric(results, name)],
        labels=results.study.tasks[name],
        digest=summary.digest(results, name),
        forest=sites.forest(results, name),
        curves=tuple(curves.labels(results, name, index)),
        decision=tuple(decision.labels(results, name, index)),
        timelines=tuple(timeline.pictures(results, name, index)),
        courses=tuple(incidence.courses(results, name, index)),
        subgroups=subgroups.forest(results, name),
        sets=modalities.sets(results, name),
        contributions=tuple(modalities.contributions(results, name)),
        importance=tuple(modalities.importance(results, name)),
        hidden=hidden.sweep(results, name, index),
        differences=tuple(differences.forests(results, name)),
        learning=learning.learning(results, name, index),
        tables=tuple(metric_tables(results, name)),
    )
