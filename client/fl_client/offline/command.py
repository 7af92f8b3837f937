"""``fl-client evaluate``."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fl_shared.commands import Format, emit
from fl_shared.metrics.table import METRICS
from fl_shared.results import EvaluationRow, Results
from fl_shared.site import Site


def evaluate(
    context: typer.Context,
    model: Annotated[Path, typer.Option(help="The model bundle (a folder).", exists=True, file_okay=False)],
    trust: Annotated[Path | None, typer.Option(help="The coordinator's public key, bundle.pub.")] = None,
    unsigned: Annotated[bool, typer.Option("--unsigned", help="Take a bundle that nobody vouches for.")] = False,
    report: Annotated[Path | None, typer.Option(help="Write one offline HTML file too.")] = None,
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.TEXT,
) -> None:
    """Judge a model bundle on this site's patients. Nothing is sent; the results are kept in the site's state folder.

    They can be shown to outsiders: no count below 10 patients, nor any that a subtraction would give. Exit code 19
    when the bundle does not verify.
    """
    from fl_client.data.check_report.page import writable
    from fl_client.files import write_private
    from fl_client.offline.judge import judge_offline
    from fl_shared.model_bundle import read_bundle, trusted
    from fl_shared.page import environment

    site: Site = context.obj
    bundle = read_bundle(model, trust=trusted(trust, unsigned=unsigned))
    if report is not None:
        writable(report)  # before minutes of reading
    results, kept = judge_offline(site, bundle, file=str(model))
    if report is not None:
        page = (
            environment("fl_client.offline")
            .get_template("offline.html.j2")
            .render(
                results=results,
                rows=shown(results),
                metrics=METRICS,
                card=bundle.card,
                unsigned=bundle.unsigned,
                signer=bundle.signer,
                site=site.name,
                version=version("consilium"),
                date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            )
        )
        write_private(report, page.encode())
    body = results.model_dump(mode="json", by_alias=True) | {"kept": str(kept), "signer": bundle.signer}
    emit(body, fmt=fmt, text=lambda console: _show(results, kept, console))


def shown(results: Results) -> list[EvaluationRow]:
    """The rows that are printed: all judged patients, all inputs first."""
    rows = [row for row in results.evaluation if not row.subgroup]
    first = {"headline": 0, "all": 1}
    return sorted(rows, key=lambda row: (row.task, first.get(row.modalities, 2), row.modalities, row.label))


def _show(results: Results, kept: Path, console: Console) -> None:
    if results.study.synthetic:
        console.print("[bold yellow]SYNTHETIC DATA[/]: the model was trained on invented patients")
    table = Table("task", "inputs", "metric", "value (95 % interval)", "patients", title="Judged at this site")
    for row in shown(results):
        value = escape(row.note) if row.value is None else f"{row.value:.4g} ({row.ci_low} to {row.ci_high})"
        name = " ".join(filter(None, (row.task, row.label)))
        table.add_row(name, row.modalities, METRICS[row.metric].title, value, "" if row.n is None else str(row.n))
    console.print(table)
    for note in results.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    console.print(f"kept: {kept}", soft_wrap=True)
