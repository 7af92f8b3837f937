"""The commands of a hospital's privacy officer: what left (`egress`), and taking no further part (`withdraw`)."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from fl_shared.commands import Format, emit
from fl_shared.site import Site

if TYPE_CHECKING:
    from fl_client import egress_log

FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]


def egress(
    context: typer.Context,
    action: Annotated[
        Literal["show", "replay"],
        typer.Argument(help="replay: compute every release's digest anew from the bytes that the outbox keeps."),
    ] = "show",
    fmt: FormatOption = Format.TEXT,
) -> None:
    """What left this site: when, for which study, how many bytes, which digest; totals a study.

    Exit code 16 when the log's chain is broken, rows are missing at its end, or (replay) the outbox does not hold the
    bytes of a row.
    """
    from fl_client import egress_log

    site: Site = context.obj
    if action == "replay":
        found = egress_log.replay(site)
        body = {"site": site.name, "replay": asdict(found)}
        emit(body, fmt=fmt, text=lambda console: _show_replay(found, console))
        return
    rows = egress_log.released(site)
    emit(egress_log.as_json(site, rows), fmt=fmt, text=lambda console: _show(site, rows, console))


def withdraw(
    context: typer.Context,
    identity: Annotated[str, typer.Argument(metavar="HASH", help="Of the study, as 'approvals' and 'egress' list it.")],
    reason: Annotated[str, typer.Option(help="Kept in this site's record; nobody outside is told.")] = "",
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Take no further part in a study, and write down what this site gave to it.

    Every later request of the study is refused, a running one releases nothing. What has left cannot be called back:
    ask the coordinator to train the study anew without this site (fl-server without). Approving it anew undoes this.
    """
    from fl_client import withdraw as act

    site: Site = context.obj
    record = act.withdraw(site, identity, reason=reason)

    def show(console: Console) -> None:
        table = Table(title=f"{site.name} withdrew from {record.study or identity[:12]}", show_header=False)
        for key, value in record.model_dump().items():
            table.add_row(key, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value))
        console.print(table)
        console.print(f"record: {site.state_dir / 'withdrawn' / f'{identity}.json'}", soft_wrap=True)

    emit(record.model_dump(mode="json"), fmt=fmt, text=show)


def _show(site: Site, rows: tuple[egress_log.Released, ...], console: Console) -> None:
    from fl_client.egress_log import totals

    told = totals(site, rows)
    known = {total.study: total.name or total.study[:12] for total in told}
    table = Table("row", "time", "study", "what", "round", "bytes", "sha256", title=f"What left {site.name}")
    for row in rows:
        cells = row.time[:19], known[row.study], row.what, row.round, f"{row.bytes:,}", row.sha256[:16]
        table.add_row(str(row.row), *map(str, cells))
    console.print(table)
    sums = Table("study", "hash", "releases", "bytes", "rounds", "first", "last", "state", title="Totals")
    for total in told:
        state = "stayed here" if total.stayed else "withdrawn" if total.withdrawn else ""
        rounds = ", ".join(map(str, total.rounds))
        times = total.first[:10], total.last[:10]
        sums.add_row(total.name, total.study, str(total.releases), f"{total.bytes:,}", rounds, *times, state)
    console.print(sums)
    console.print("hash chain intact")


def _show_replay(found: egress_log.Replay, console: Console) -> None:
    console.print(f"{found.matched} of {found.rows} releases: the outbox holds the very bytes that left")
    if found.not_kept:
        console.print(f"{found.not_kept} of secure aggregation (keys, shares, masked updates): used once, kept nowhere")
    for name in found.never_left:
        console.print(f"computed, but never left: {name}", soft_wrap=True)
    console.print("hash chain intact")
