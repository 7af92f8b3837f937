"""The full table of metrics of a model: a block a set of inputs and label, a row a metric, a column a site."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fl_server.report import view
from fl_shared.metrics.table import MetricName, metrics_of
from fl_shared.results import EvaluationRow, Results

MANY_SETS = 12
"""Of more sets of inputs than these, only the headline's and all stand in the full table."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One label from one set of inputs. rows: a metric's cells, in the order of the columns."""

    modalities: str
    label: str
    leaky: bool
    rows: tuple[tuple[MetricName, tuple[EvaluationRow | None, ...]], ...]

    @property
    def counts(self) -> list[EvaluationRow | None]:
        """A row of each column, whose n and events all its metrics share."""
        columns = zip(*(cells for _, cells in self.rows), strict=True)
        return [next((cell for cell in cells if cell is not None), None) for cells in columns]

    @property
    def notes(self) -> list[list[str]]:
        """Of each column, all notes, each once."""
        columns = zip(*(cells for _, cells in self.rows), strict=True)
        return [
            list(dict.fromkeys(note for cell in cells if cell for note in cell.note.split("; ") if note))
            for cells in columns
        ]


@dataclass(frozen=True, kw_only=True)
class MetricTable:
    """The table of a task and model. complete: whether all sets of inputs are in it."""

    model: str
    sites: tuple[str, ...]
    blocks: tuple[Block, ...]
    notes: tuple[str, ...]
    complete: bool


def metric_tables(results: Results, task: str) -> list[MetricTable]:
    """A table a model, the page's own first."""
    rows = [row for row in view.plain(results.evaluation) if row.task == task]
    main = view.main_model(results)
    models = sorted({row.model for row in rows}, key=lambda model: (model != main, model))
    return [_table(results, task, model, [row for row in rows if row.model == model]) for model in models]


def _table(results: Results, task: str, model: str, rows: Sequence[EvaluationRow]) -> MetricTable:
    """External sites first, headline inputs first, labels as given; of all judged patients."""
    told = {row.site for row in rows}
    sites = tuple(site for site in view.site_order(results) if site in told)
    every = view.modality_sets(results, task)
    front = (view.headline_modalities(results, task), "all")
    sets = every if len(every) <= MANY_SETS else [name for name in every if name in front]
    cells: dict[tuple[str, str], dict[MetricName, dict[str, EvaluationRow]]] = {}
    for row in rows:
        cells.setdefault((row.modalities, row.label), {}).setdefault(row.metric, {})[row.site] = row
    labels = list(dict.fromkeys(row.label for row in rows))
    blocks = tuple(
        _block(results, task, modalities, label, cells[modalities, label], sites)
        for modalities in sets
        for label in labels
        if (modalities, label) in cells
    )
    notes = dict.fromkeys(note for block in blocks for column in block.notes for note in column)
    return MetricTable(model=model, sites=sites, blocks=blocks, notes=tuple(notes), complete=len(sets) == len(every))


def _block(
    results: Results,
    task: str,
    modalities: str,
    label: str,
    found: Mapping[MetricName, Mapping[str, EvaluationRow]],
    sites: Sequence[str],
) -> Block:
    known = metrics_of(results.study.types[task])
    order = sorted(found, key=lambda metric: known.index(metric) if metric in known else len(known))
    return Block(
        modalities=modalities,
        label=label,
        leaky=view.is_leaky(results, task, modalities),
        rows=tuple((metric, tuple(found[metric].get(site) for site in sites)) for metric in order),
    )
