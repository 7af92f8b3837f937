"""``fl-client --site NAME ledger [verify]``: what a cohort has spent, and whether the books hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from fl_shared.commands import Format, emit
from fl_shared.errors import ExitCode
from fl_shared.site import Site

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fl_client.privacy.chain import Row
    from fl_client.verification import Check

FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]


def ledger(
    context: typer.Context,
    action: Annotated[
        Literal["show", "verify"],
        typer.Argument(help="verify: rows, chain and head; epsilon; the outbox and the log of what left against them."),
    ] = "show",
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Show every reservation and the epsilon of all together; verify that the books hold.

    Exit code 16 when the ledger was altered, or does not agree with what left.
    """
    site: Site = context.obj
    if action == "verify":
        _verify(site, fmt)
        return
    from fl_client.payment import site_ledger

    book = site_ledger(site)  # it reads nothing that does not verify
    rows = book.rows()
    spent = book.spent(site.privacy.delta)
    limits = {"delta": site.privacy.delta, "cap": site.privacy.epsilon_cap}
    body = {"site": site.name, "epsilon": spent, **limits, "rows": [row.model_dump(mode="json") for row in rows]}

    def show(console: Console) -> None:
        console.print(_table(site, rows))
        console.print(f"spent epsilon {spent:.4f} of {site.privacy.epsilon_cap} at delta {site.privacy.delta}")
        console.print("hash chain intact")

    emit(body, fmt=fmt, text=show)


def _table(site: Site, rows: Sequence[Row]) -> Table:
    names = ("seq", "study", "purpose", "round", "state", "sigma", "q", "steps", "eps_after")
    table = Table(title=site.name, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in (*names[:-1], "epsilon"):
        table.add_column(name, no_wrap=True)
    for row in rows:
        cells = (getattr(row, name) for name in names)
        texts = [f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells]
        table.add_row(texts[0], texts[1][:7], *texts[2:])
    return table


def _verify(site: Site, fmt: Format) -> None:
    from fl_client.verification import verify

    checks = verify(site)
    sound = all(check.ok for check in checks)
    body = {"site": site.name, "ok": sound, "checks": [asdict(check) | {"ok": check.ok} for check in checks]}
    emit(body, fmt=fmt, text=lambda console: _draw(checks, console))
    if not sound:
        raise typer.Exit(int(ExitCode.PRIVACY))


def _draw(checks: Sequence[Check], console: Console) -> None:
    for check in checks:
        console.print(f"{'ok  ' if check.ok else 'FAIL'}  {check.name}: {check.seen}", soft_wrap=True, highlight=False)
        for problem in check.problems:
            console.print(f"      {problem}", soft_wrap=True, highlight=False, markup=False)
