"""The catalogue of systems and their parts as tables for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table


def show(found: Mapping[str, Sequence[Mapping[str, Any]]], console: Console) -> None:
    """Print what `fl_shared.models.catalogue.catalogue` gives."""
    console.print(_systems(found["systems"]))
    console.print(_parts("Encoders", found["encoders"], "modality"))
    console.print(_parts("Fusions", found["fusions"], "missing"))
    console.print(_heads(found["heads"]))
    console.print(
        "parameters: of the presets small and paper, for 12 leads x 640, 48 bins of 38 fields, 20 fields, 224 x 224 "
        "pixels, 16 frames; of a fusion for two modalities. private: per-patient gradients are exact.",
        highlight=False,
    )


def _systems(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = (Column("system", no_wrap=True), _folded("of the paper"), _folded("phases: what each trains"))
    table = Table(*columns, title="Systems", show_lines=True)
    for row in rows:
        paper = (row["title"], *(", ".join(row[key]) for key in ("modalities", "tasks")))
        fusions = ("fusions:", *row["fusions"], "parameters:", _sizes(row))
        table.add_row("\n".join((row["name"], "", *fusions)), "\n\n".join(paper), "\n".join(_phases(row)))
    return table


def _phases(row: Mapping[str, Any]) -> list[str]:
    """The default fusion's, what other fusions do otherwise, and what has no private form."""
    told = [_told(phase) for phase in row["phases"]]
    for fusion, phases in row["other_phases"].items():
        told += ["", f"with {fusion}: {', '.join(phase['name'] for phase in phases)}"]
        told += [_told(phase) for phase in phases if phase not in row["phases"]]
    refused: dict[str, list[str]] = {}
    for fusion, why in row["not_private"].items():
        refused.setdefault(why, []).append(fusion)
    return told + [f"Not private with {', '.join(fusions)}: {why}." for why, fusions in refused.items()]


def _told(phase: Mapping[str, Any]) -> str:
    return f"{phase['name']}: {phase['does']}"


def _sizes(row: Mapping[str, Any]) -> str:
    return " / ".join(f"{row['parameters'][preset]:,}" for preset in ("small", "paper"))


def _parts(title: str, rows: Sequence[Mapping[str, Any]], key: str) -> Table:
    table = Table(Column("name", no_wrap=True), key, "parameters", "private", _folded("source"), title=title)
    for row in sorted(rows, key=lambda row: (row[key], row["name"])):
        table.add_row(row["name"], row[key], _sizes(row), _yes(row), row["source"])
    return table


def _heads(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(Column("task", no_wrap=True), "private", _folded("source"), title="Heads")
    for row in rows:
        table.add_row(row["task"], _yes(row), row["source"])
    return table


def _folded(title: str) -> Column:
    """A column whose long words are folded, not cut."""
    return Column(title, overflow="fold")


def _yes(row: Mapping[str, Any]) -> str:
    return "yes" if row["dp"] else "no"
