"""``fl-server compare``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fl_shared.commands import Format, emit

if TYPE_CHECKING:
    from fl_server.promotion.compare import Compared, Comparison

LONGEST = 60  # characters of a value that differs


def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run's folder.", exists=True)],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another one, of the same tasks.", exists=True)],
    every: Annotated[bool, typer.Option("--all", help="Print every metric, not the headline ones alone.")] = False,
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.TEXT,
) -> None:
    """How two runs differ, with intervals: at each site, over all, and in their studies. First less second.

    Differences are paired where an evaluate-only run of both models (fl-server evaluate --model RUN --against RUN) lies
    beside them; otherwise their intervals are too wide, and say so.
    """
    from fl_server.promotion import compare as comparing

    found = comparing.compare(first, second)
    emit(found.model_dump(mode="json"), fmt=fmt, text=lambda console: _show(found, console, every=every))


def _show(found: Comparison, console: Console, *, every: bool) -> None:
    from fl_shared.metrics.table import METRICS

    title = f"{found.first} less {found.second}"
    notes: dict[str, int] = {}
    table = Table("site", "what", "inputs", "difference (95 % interval)", "better", "", title=title)
    for part in _chosen([*found.summaries, *found.sites], every=every):
        site = part.site or f"all {part.role} ({len(part.sites)})"
        what = f"{METRICS[part.metric].title} of {part.task} {part.label}".rstrip()
        value = f"{part.value:+.4g} ({part.ci_low:+.4g} to {part.ci_high:+.4g})"
        better = {"first": found.first, "second": found.second, "": ""}[part.better]
        how = "paired" + (f", p {part.p:g}" if part.p is not None else "") if part.paired else ""
        how = how or (f"note {notes.setdefault(part.note, len(notes) + 1)}" if part.note else "")
        table.add_row(site, escape(what), escape(part.modalities), value, better, how)
    console.print(table)
    for note, number in notes.items():
        console.print(f"note {number}: {note}", highlight=False)
    if not found.sites:
        console.print("no site tells both: nothing can be compared")
    console.print(f"hashes: {found.hashes[0]}\n        {found.hashes[1]}", highlight=False)
    for key, (one, two) in found.differs.items():
        console.print(f"{key}: {_brief(one)} | {_brief(two)}", highlight=False, markup=False)
    for folder in found.paired_by:
        console.print(f"paired by: {folder}", soft_wrap=True)


def _brief(value: object) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _chosen(parts: Iterable[Compared], *, every: bool) -> list[Compared]:
    """All, or each task's headline metric of the common model, from the inputs that come first."""
    from fl_shared.metrics.table import metrics_of
    from fl_shared.task import TaskType

    told = list(parts)
    if every:
        return told
    heads = {name for kind in get_args(TaskType) for name in metrics_of(kind)[:1]}
    inputs = {"headline"} if any(part.modalities == "headline" for part in told) else {"all"}
    macro = {part.task for part in told if part.label == "macro"}
    return [
        part
        for part in told
        if part.metric in heads
        and part.modalities in inputs
        and part.model == "federated"
        and (part.label == "macro" or part.task not in macro)
    ]
