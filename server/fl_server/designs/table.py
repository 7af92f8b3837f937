"""A design in the terminal: a table a task, then the worst sites and what a reader must not overlook."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fl_server.designs.derive import DesignPlan
from fl_server.designs.result import FILE, DesignResult
from fl_server.designs.view import TITLES, boards
from fl_shared.accounting import epsilon
from fl_shared.budget import budget


def show_result(result: DesignResult, folder: Path, console: Console) -> None:
    """Print every board, the worst sites and the notes."""
    if result.synthetic:
        console.print(Text("SYNTHETIC DATA", style="bold yellow"))
    if result.simulated:
        console.print(Text("simulated on this machine"))
    several = len({row.model for row in result.measures}) > 1
    for board in boards(result):
        of = f", model {board.model}" if several else ""
        title = f"{TITLES[result.design]}: {result.study}, {board.task}{of}: {board.metric.title} (95 % interval)"
        table = Table(title=Text(title), title_justify="left", box=box.SIMPLE_HEAD)
        for column in ("site", *board.columns):
            table.add_column(column, overflow="fold")
        for line in board.lines:
            style = "bold" if line.summary else "yellow" if line.worst else ""
            table.add_row(*map(Text, (line.name, *line.cells)), style=style)
        console.print(table)
        for sentence in board.worst:
            console.print(Text(sentence, style="yellow"))
    if result.privacy == "none":
        console.print(Text("NO PRIVACY GUARANTEE (mode none)", style="bold red"))
    for note in result.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(f"report: {folder / 'report.html'}\nresult: {folder / FILE}", soft_wrap=True)


def show_plan(plan: DesignPlan, files: dict[str, Path], console: Console) -> None:
    """Print the studies of a design, and what they ask of the sites."""
    table = Table(title=Text(TITLES[plan.design]), title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("study", "trains", "judges only", "hash"):
        table.add_column(column, overflow="fold")
    for derived in plan.studies:
        study = derived.study
        table.add_row(study.name, ", ".join(study.train_sites), ", ".join(study.external_sites), study.identity[:12])
    console.print(table)
    for site, spent in costs(plan).items():
        console.print(
            f"{site} pays epsilon {spent:.3g} (delta {plan.parent.privacy.delta:g}) for all studies together; its cap "
            "may refuse",
            highlight=False,
        )
    if files:
        console.print(
            f"{len(files)} files in {next(iter(files.values())).parent}: every site approves each of them with "
            "fl-client --site NAME approve FILE",
            soft_wrap=True,
            highlight=False,
        )


def costs(plan: DesignPlan) -> dict[str, float]:
    """Site -> epsilon of all that it pays for in the studies of a design together; empty without privacy."""
    delta, found = plan.parent.privacy.delta, {}
    if plan.parent.privacy.mode == "none":
        return {}
    for site in sorted({site for derived in plan.studies for site in derived.study.train_sites}):
        parts = [budget(d.study, site, delta=delta) for d in plan.studies if site in d.study.train_sites]
        events = [e for part in parts for e in (part.training, part.statistics, part.recalibration) if e is not None]
        found[site] = epsilon(events, delta=delta)
    return found
