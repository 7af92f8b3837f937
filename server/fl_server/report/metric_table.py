"""The full table of metrics, arranged: a group a site and model, a part a set of inputs, a line a label.

A line has a row a metric.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from fl_server.report import view
from fl_shared.metrics.table import MetricName
from fl_shared.results import EvaluationRow, Results


@dataclass(frozen=True, kw_only=True)
class MetricLine:
    """The metrics of one label with one set of inputs."""

    label: str
    metrics: dict[MetricName, EvaluationRow]

    @property
    def n(self) -> int | None:
        """Samples judged; the same for all metrics of a line."""
        return next(iter(self.metrics.values())).n

    @property
    def events(self) -> int | None:
        """Samples with the event."""
        return next(iter(self.metrics.values())).events

    @property
    def notes(self) -> list[str]:
        """All notes of the line, each once."""
        return list(dict.fromkeys(note for row in self.metrics.values() for note in row.note.split("; ") if note))


@dataclass(frozen=True, kw_only=True)
class MetricPart:
    """The lines of one set of inputs."""

    modalities: str
    leaky: bool
    lines: tuple[MetricLine, ...]

    @property
    def height(self) -> int:
        """Rows that the part takes."""
        return sum(len(line.metrics) for line in self.lines)


@dataclass(frozen=True, kw_only=True)
class MetricGroup:
    """All that one site says of one model."""

    site: str
    role: str
    model: str
    parts: tuple[MetricPart, ...]


def metric_groups(results: Results, task: str) -> list[MetricGroup]:
    """The full table of a task: external sites first, headline inputs first, labels as given."""
    sets = view.modality_sets(results, task)
    place = {name: index for index, name in enumerate(view.site_order(results))}
    rows = [row for row in results.evaluation if row.task == task]
    rows.sort(key=lambda row: (place[row.site], row.model, sets.index(row.modalities)))
    return [
        MetricGroup(site=site, role=role, model=model, parts=tuple(_parts(results, list(group))))
        for (site, role, model), group in groupby(rows, key=lambda row: (row.site, row.role, row.model))
    ]


def _parts(results: Results, rows: Sequence[EvaluationRow]) -> Iterator[MetricPart]:
    for modalities, part in groupby(rows, key=lambda row: row.modalities):
        lines: dict[str, dict[MetricName, EvaluationRow]] = {}
        for row in part:
            lines.setdefault(row.label, {})[row.metric] = row
        yield MetricPart(
            modalities=modalities,
            leaky=view.is_leaky(results, rows[0].task, modalities),
            lines=tuple(MetricLine(label=label, metrics=metrics) for label, metrics in lines.items()),
        )
