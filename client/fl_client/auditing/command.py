"""``fl-client audit-privacy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fl_shared.commands import Format, emit
from fl_shared.errors import ExitCode
from fl_shared.site import Site


def audit_privacy(
    context: typer.Context,
    study: Annotated[Path, typer.Argument(help="The study.toml whose training is attacked.")],
    report: Annotated[Path | None, typer.Option(help="Write one offline HTML file too, in plain language.")] = None,
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.TEXT,
) -> None:
    """Attack a study's training on this site's own patients: exact checks of clipping and noise, then guesses.

    It trains all rounds here once, with some patients left out, and releases nothing. Exit code 16 when an exact check
    fails or an attack refutes the claimed epsilon.
    """
    from fl_client.approval import fits
    from fl_client.auditing.page import summary, write_page
    from fl_client.auditing.run import audit
    from fl_client.data.check_report.page import writable
    from fl_client.data.load import load_cohort
    from fl_shared.study import load_study

    site: Site = context.obj
    plan = load_study(study)
    fits(site, plan, file=str(study))
    if report is not None:
        writable(report)  # before minutes of training
    cohort, _ = load_cohort(site, plan)
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("training to be attacked", total=plan.training.rounds)
        found = summary(
            audit(site, plan, cohort, done=lambda number: bar.update(task, completed=number)), site=site, study=plan
        )
    if report is not None:
        write_page(found, report)
    emit(found, fmt=fmt, text=lambda console: _show(found, console))
    if not found["holds"]:
        raise typer.Exit(int(ExitCode.PRIVACY))


def _show(found: dict[str, Any], console: Console) -> None:
    table = Table(
        "check", "measured", "must lie within", "", title=f"Privacy audit: {found['study']} at {found['site']}"
    )
    for gate in found["gates"]:
        word = "holds" if gate["holds"] else "[bold red]FAILS[/]"
        table.add_row(gate["name"], f"{gate['measured']:.6f}", f"{gate['low']:g} to {gate['high']:g}", word)
    if found["gates"]:
        console.print(table)
    claim = "no privacy is claimed" if found["claimed"] is None else f"the ledger pays for {found['claimed']:.3f}"
    console.print(
        f"membership inference on {found['watched']} patients: AUC {found['membership_auc']:.2f} (0.5 is chance)\n"
        f"canaries: {found['right']} of {found['guessed']} guesses right: epsilon is at least {found['floor']:.2f} "
        f"(95 %); {claim}\n"
        "with few patients the attacks are noisy: they are reported, the exact checks decide",
        highlight=False,
    )
