"""The end of a run in the terminal: one table of headline results."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl_server.report import view
from fl_shared.metrics.table import METRICS
from fl_shared.results import EvaluationRow, Results


def headline_table(results: Results, console: Console) -> None:
    """Print each task's headline metric (95 % interval) by site (external first) and inputs, and what privacy cost."""
    study, privacy = results.study, results.privacy
    if study.synthetic:
        console.print(Text("SYNTHETIC DATA", style="bold yellow"))
    for task in study.tasks:
        table = Table(title=Text(f"{study.name}: {task}"), title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("site", overflow="fold")
        table.add_column("inputs", overflow="fold")
        title = METRICS[view.headline_metric(results, task)].title
        table.add_column(f"{title} (95 % interval)", min_width=20)
        table.add_column("epsilon", justify="right", no_wrap=True)
        for headline in view.headline_rows(results, task):
            for cells, style in _lines(results, headline):
                table.add_row(*map(Text, cells), style=style)
            table.add_section()
        console.print(table)
    console.print(Text(view.privacy_claim(privacy), style="bold red" if privacy.mode == "none" else ""))
    if study.leaky:
        console.print(Text(f"leaky: {', '.join(study.leaky)} states the diagnosis; kept out of the headline"))


def _lines(results: Results, headline: EvaluationRow) -> Iterator[tuple[tuple[str, ...], str]]:
    """The rows of one task at one site, the headline inputs first and in bold, with their style."""
    spent = results.privacy.epsilon_spent.get(headline.site)
    epsilon = view.NO_VALUE if spent is None else f"{spent:.2f}"
    models = {row.model for row in results.evaluation} - {view.RECALIBRATED}
    model = f", {headline.model}" if len(models) > 1 else ""
    site = f"{headline.site} ({view.ROLE_NAMES[headline.role]}{model})"
    if headline.value is None:
        yield (site, headline.modalities, headline.note, epsilon), "bold"
        return
    wanted = {name: getattr(headline, name) for name in ("task", "site", "model", "label", "metric")}
    for modalities in view.modality_sets(results, headline.task):
        first = modalities == headline.modalities
        inputs = f"{modalities} (leaky)" if view.is_leaky(results, headline.task, modalities) else modalities
        value = view.estimate(view.find(results.evaluation, **wanted, modalities=modalities))
        yield (site if first else "", inputs, value, epsilon if first else ""), "bold" if first else ""
