"""``fl-server compare-systems``: many models of one study's sites, tasks and patients, from one file."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from fl_shared.commands import Format, emit
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import load_site

if TYPE_CHECKING:
    from fl_server.comparison.derive import Grid
    from fl_server.comparison.result import ComparisonResult

REPORT = "report.html"


def compare_systems(
    file: Path, *, sites_dir: Path, runs: Path, workers: int | None, weights: Mapping[str, Path], plan: bool,
    fmt: Format,
) -> None:  # fmt: skip
    """Run a comparison's file (or continue), or with ``plan`` say what it would run."""
    from fl_server.comparison.derive import derive

    grid = derive(file, weights=weights)
    if plan:
        emit(_planned(grid), fmt=fmt, text=lambda console: _show_plan(grid, console))
        return
    from fl_server.comparison.run import Place, run_comparison

    _check_sites(grid, sites_dir)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that every process is ended
    folder, console = runs / grid.plan.name, Console(stderr=True)
    place = Place(folder=folder, sites_dir=sites_dir, weights=weights, workers=workers or os.cpu_count() or 1)
    try:
        result = run_comparison(grid, place, console=console)
    except KeyboardInterrupt:
        console.print("stopped: what has finished is kept; the same command continues", highlight=False)
        sys.exit(128 + signal.SIGINT)
    tell(result, folder, fmt=fmt)
    if any(cell.state == "failed" for cell in result.cells):
        sys.exit(ExitCode.ROUND_FAILED)


def _check_sites(grid: Grid, sites_dir: Path) -> None:
    """Raise ConsiliumError (exit code 11) with what is wrong with any site, before a cell of it fails."""
    wrong: list[ConsiliumError] = []
    for name in grid.parent.sites:
        try:
            load_site(sites_dir / name)
        except ConsiliumError as error:
            wrong.append(error)
    if wrong:
        message = f"{'; '.join(error.message for error in wrong)}. --sites-dir is the folder of all sites."
        raise ConsiliumError(message, code=ExitCode.SITE, faults=[fault for error in wrong for fault in error.faults])


def report_comparison(folder: Path, *, fmt: Format) -> bool:
    """Write the report of a comparison's folder anew and print its tables; False where the folder is none."""
    from fl_server.comparison.collect import read

    if (result := read(folder)) is None:
        return False
    tell(result, folder, fmt=fmt)
    return True


def tell(result: ComparisonResult, folder: Path, *, fmt: Format) -> None:
    """Write the report and print the tables."""
    from fl_server.comparison.page import write_comparison_report
    from fl_server.comparison.terminal import show_comparison

    write_comparison_report(result, folder / REPORT)
    body = result.model_dump(mode="json", by_alias=True) | {"report": str(folder / REPORT)}
    emit(body, fmt=fmt, text=lambda console: show_comparison(result, folder, console))


def _planned(grid: Grid) -> dict[str, Any]:
    cells = [
        {
            "variant": cell.variant,
            "mode": cell.mode,
            "seed": cell.seed,
            "studies": [one.study.name for one in cell.studies],
            "refused": cell.refused,
        }
        for cell in grid.cells
    ]
    parameters = {name: about.parameters for name, about in grid.variants.items()}
    return {"name": grid.plan.name, "cells": cells, "studies": _studies(grid), "parameters": parameters}


def _studies(grid: Grid) -> int:
    return sum(len(cell.studies) for cell in grid.cells)


def _show_plan(grid: Grid, console: Console) -> None:
    """One line a variant, what is refused below."""
    table = Table(title=grid.plan.title or None, box=box.SIMPLE_HEAD)
    for column in ("variant", "model", "parameters", *grid.plan.modes):
        table.add_column(column, overflow="fold")
    every: Counter[tuple[str, str]] = Counter()
    for cell in grid.cells:
        every[cell.variant, cell.mode] += len(cell.studies)
    for name, about in grid.variants.items():
        counts = (str(every[name, mode] or "refused") for mode in grid.plan.modes)
        model = about.study.model
        table.add_row(name, f"{model.system} {model.fusion}", f"{about.parameters:,}", *counts)
    console.print(table)
    for variant, mode, why in dict.fromkeys((c.variant, c.mode, c.refused) for c in grid.cells if c.refused):
        console.print(f"refused: {variant} {mode}: {why}", markup=False, highlight=False, soft_wrap=True)
    seeds = len(grid.plan.seeds)
    console.print(f"{len(grid.cells)} cells, {_studies(grid)} studies; numbers above are studies of {seeds} seed(s)")
