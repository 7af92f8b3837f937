"""A check's findings on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fl_client.data.checking.summary import as_faults
from fl_client.data.checking.words import average, counted, flow_steps, label_line


def render(summary: dict[str, Any], console: Console) -> None:
    """Print a `summary` as tables."""
    head = Table(title="Data check", show_header=False)
    for key in ("accepted", "rejects"):
        head.add_row(key, str(summary[key]))
    for step, count in flow_steps(summary):
        head.add_row(step, str(count))
    for key in ("patients", "training_patients", "held_out_patients"):
        if key in summary:
            head.add_row(key.replace("_", " "), str(summary[key]))
    console.print(head)
    if summary["accepted"]:
        _cohort(summary, console)
    if summary["repairs"]:
        _print(console, "Repaired or set missing", ("what", "count"), summary["repairs"].items())
    if summary["quarantined"]:
        rows = [(q["modality"], q["check"], q["count"]) for q in summary["quarantined"]]
        _print(console, "Quarantined", ("modality", "check", "count"), rows)
    if summary.get("quarantined_rows"):
        rows = [(q["row"], q["modality"] or "(sample)", q["detail"]) for q in summary["quarantined_rows"]]
        _print(console, "Quarantined rows (local)", ("row", "modality", "detail"), rows)
    for words in summary["left_out"]:
        console.print(escape(f"Not read: {words}."), soft_wrap=True)
    if summary["faults"]:
        console.print("[bold red]Rejected[/]: nothing trains before this is mended.")
    for fault in as_faults(summary):  # lines, as of any error: a table would cut them on a narrow screen
        console.print(escape(f"  - {fault}"), highlight=False, soft_wrap=True)
    if not summary["local"]:
        words = "Exact counts, rows, values and file names: add --local (for this hospital's eyes only)."
        console.print(words, soft_wrap=True)


def _cohort(summary: dict[str, Any], console: Console) -> None:
    rows: list[Sequence[object]] = []
    for name, item in summary["missing"].items():
        sides = summary["split"][name]
        rows.append((name, item["present"], item["missing"], sides["training"], sides["held_out"]))
    _print(console, "Modalities (samples)", ("", "present", "missing", "training", "held out"), rows)
    rows = [
        (name, field, told["missing"])
        for name, item in summary["missing"].items()
        for field, told in item["fields"].items()
        if told["missing"] != 0
    ]
    if rows:
        _print(console, "Incomplete fields (samples that have the modality)", ("", "field", "missing"), rows)
    if summary["table_1"]:
        rows = [line for item in summary["table_1"] for line in _characteristic(item)]
        _print(console, "Table 1 (samples)", ("", "median (quartiles) or n (%)", "known", "missing"), rows)
    rows = [
        (task, kind["type"], entry.get("label", ""), label_line(entry, kind))
        for task, kind in summary["tasks"].items()
        for entry in summary["labels"][task]
    ]
    if rows:
        _print(console, "Outcomes (samples)", ("task", "type", "label", "how often"), rows)


def _characteristic(item: dict[str, Any]) -> Iterable[Sequence[object]]:
    name = item["title"] + (f" [{item['source']}, last]" if item["source"] else "")
    if "values" not in item:
        return [(name, average(item), item["observed"], item["missing"])]
    lines = [(f"  {part['value'].replace('_', ' ')}", counted(part), "", "") for part in item["values"]]
    return [(name, "", item["observed"], item["missing"]), *lines]


def _print(console: Console, title: str, columns: tuple[str, ...], rows: Any) -> None:
    table = Table(title=title, show_header=any(columns))
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    console.print(table)
