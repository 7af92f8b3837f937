"""Run a comparison's cells, many at a time; what has finished is not run again, and one that fails stops no other.

A cell runs in a process of its own making (`fl_server.comparison.fleet`): Flower's simulation engine is a Ray itself,
and never nested here. All else is the code of the deployment: approval, ledger, egress gate, rounds, report.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console

from fl_server import durable
from fl_server.checkpoint import RunDirectory
from fl_server.comparison import collect
from fl_server.comparison.collect import Gathered, Key, key_of
from fl_server.comparison.derive import Cell, Grid
from fl_server.comparison.engine import Engine
from fl_server.comparison.pairs import Judging, Pair, judge, judges, pairs
from fl_server.comparison.result import CellTold, ComparisonResult
from fl_server.comparison.shown import Shown
from fl_server.comparison.work import Done, Part, Work, do
from fl_server.launch import REPORT, STUDY, load_prepared
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import Results
from fl_shared.written import write_model

CELLS, PAIRS, STUDIES, LOCK, SCRATCH = "cells", "pairs", "studies", ".lock", ".ray"
SHARE = 0.1  # most of the time that writing the result may take while cells run


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a comparison runs. ``folder``: its own, below that of all runs."""

    folder: Path
    sites_dir: Path
    weights: Mapping[str, Path]
    workers: int


def run_comparison(grid: Grid, place: Place, *, console: Console) -> ComparisonResult:
    """Run what has not finished; the result is written after every cell.

    Args:
        grid: all cells.
        place: where.
        console: shows progress.

    Raises:
        ConsiliumError: the comparison is running already (ALREADY_RUNNING), the folder is another's, or the disk
            refuses (CHECKPOINT).
    """
    folder = place.folder
    if (folder / STUDY).exists() or RunDirectory(folder).read_results() is not None:
        message = f"{folder} holds a run of a study of that name. Use another --runs."
        raise ConsiliumError(message, code=ExitCode.CHECKPOINT)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        durable.locked(folder / LOCK, what=f"A comparison in {folder}"),
        Engine(workers=place.workers, scratch=folder / SCRATCH) as engine,
    ):
        return _Run(grid, place, engine, console).run()


class _Run:
    """One start of a comparison."""

    def __init__(self, grid: Grid, place: Place, engine: Engine, console: Console) -> None:
        self._grid, self._place, self._engine, self._console = grid, place, engine, console
        self._gathered = Gathered(grid=grid, workers=place.workers)
        self._written, self._took = 0.0, 0.0

    def run(self) -> ComparisonResult:
        """Cells first, then the variants' models beside the reference's."""
        began = time.perf_counter()
        before = self._before()
        todo = {key_of(cell): cell for cell in self._grid.cells if not cell.refused}
        todo = {key: cell for key, cell in todo.items() if key not in self._gathered.cells}
        jobs = {key: partial(do, self._work(cell)) for key, cell in todo.items()}
        with Shown(self._console, total=len(self._grid.cells)) as shown:
            shown.skipped(len(self._grid.cells) - len(todo))
            for key, done in self._done(jobs, {key: cell.title for key, cell in todo.items()}, shown):
                self._take(todo[key], done)
                self._write()
        self._compare()
        fresh = len(todo) == sum(not cell.refused for cell in self._grid.cells)
        seconds = round(time.perf_counter() - began, 1)
        if fresh:
            self._gathered.wall_seconds = seconds
        elif before is not None:
            self._gathered.wall_seconds = before.wall_seconds
            self._gathered.workers = before.workers if not todo else self._place.workers
        self._write(last=True)
        return self._gathered.result()

    def _compare(self) -> None:
        """Let the sites judge what has finished beside the reference, where they have not."""
        cells = self._gathered.cells
        ready = {
            key_of(pair.variant): pair
            for pair in pairs(self._grid)
            if all(cells[key_of(cell)].state == "finished" for cell in (pair.variant, pair.reference))
        }
        todo = {}
        for key, pair in ready.items():
            if (results := self._judged(pair)) is not None:
                self._gathered.compare(pair, results, "")
            else:
                todo[key] = pair
        jobs = {key: partial(judge, self._judging(pair)) for key, pair in todo.items()}
        with Shown(self._console, total=len(ready), what="differences") as shown:
            shown.skipped(len(ready) - len(todo))
            for key, done in self._done(jobs, {key: pair.title for key, pair in todo.items()}, shown):
                self._gathered.compare(todo[key], self._judged(todo[key]), done.reason)
                self._write()

    def _judging(self, pair: Pair) -> Judging:
        folder = self._place.folder.resolve()
        runs = [folder / CELLS / cell.studies[0].study.name for cell in (pair.variant, pair.reference)]
        first, second = reversed(runs) if pair.turned else runs
        return Judging(
            name=pair.name,
            first=first,
            second=second,
            judges=judges(self._grid.parent, pair.variant.mode),
            files=folder / STUDIES,
            runs=folder / PAIRS,
            sites_dir=self._place.sites_dir.resolve(),
        )

    def _judged(self, pair: Pair) -> Results | None:
        """What the sites said of the two models that there are."""
        folder = self._place.folder / PAIRS / pair.name
        results = RunDirectory(folder).read_results() if (folder / REPORT).exists() else None
        if results is None:
            return None
        cells = [self._place.folder / CELLS / c.studies[0].study.name for c in (pair.variant, pair.reference)]
        told = (folder / REPORT).stat().st_mtime
        return results if all((cell / REPORT).stat().st_mtime <= told for cell in cells) else None

    def _done(
        self, jobs: Mapping[Key, partial[Done]], titles: Mapping[Key, str], shown: Shown
    ) -> Iterator[tuple[Key, Done]]:
        for key, done in self._engine.run(jobs, started=lambda key: shown.started(titles[key])):
            shown.ended(titles[key], done)
            yield key, done

    def _before(self) -> ComparisonResult | None:
        """What an earlier start finished or found refused is taken over."""
        before = collect.read(self._place.folder)
        known = {(one.variant, one.mode, one.seed): one for one in before.cells} if before is not None else {}
        for cell in self._grid.cells:
            told, runs = known.get(key_of(cell)), _runs(cell)
            if told is not None and told.runs != runs:
                told = None  # of a cell that was written otherwise
            if cell.refused:
                continue
            if told is not None and told.state == "refused":
                self._gathered.take(cell, told, ())
            elif (found := self._finished(cell)) is not None:
                seconds = told.seconds if told is not None else None
                self._gathered.take(cell, self._told(cell, Done(state="finished", seconds=seconds), found), found)
        return before

    def _finished(self, cell: Cell) -> list[Results] | None:
        """Results of all studies of a cell that has finished."""
        found = []
        for derived in cell.studies:
            folder = self._place.folder / CELLS / derived.study.name
            if not (folder / REPORT).exists() or load_prepared(folder).identity != derived.study.identity:
                return None
            if (results := RunDirectory(folder).read_results()) is None:
                return None
            found.append(results)
        return found

    def _work(self, cell: Cell) -> Work:
        files = self._place.folder / STUDIES
        files.mkdir(exist_ok=True)
        parts = []
        for derived in cell.studies:
            path = (files / f"{derived.study.name}.toml").resolve()
            write_model(path, derived.study, header=f"Comparison '{self._grid.plan.name}': {cell.title}.")
            parts.append(Part(path=path, pools=dict(derived.pools)))
        return Work(
            title=cell.title,
            parts=tuple(parts),
            runs=(self._place.folder / CELLS).resolve(),
            sites_dir=self._place.sites_dir.resolve(),
            weights={name: path.resolve() for name, path in self._place.weights.items()},
        )

    def _take(self, cell: Cell, done: Done) -> None:
        found = self._finished(cell) if done.state == "finished" else None
        self._gathered.take(cell, self._told(cell, done, found or []), found or [])

    def _told(self, cell: Cell, done: Done, found: list[Results]) -> CellTold:
        spent: dict[str, float] = {}
        for results in found:
            spent |= results.privacy.epsilon_spent
        rounds = sum(one.seconds for results in found for one in results.rounds)
        return CellTold(
            variant=cell.variant,
            mode=cell.mode,
            seed=cell.seed,
            state=done.state,
            reason=done.reason,
            runs=_runs(cell),
            seconds=round(done.seconds if done.seconds is not None else rounds, 2),
            epsilon_spent=spent,
        )

    def _write(self, *, last: bool = False) -> None:
        """After every cell, unless that would take long beside the cells themselves."""
        now = time.perf_counter()
        if not last and now - self._written < self._took / SHARE:
            return
        collect.write(self._gathered.result(), self._place.folder)
        self._written = time.perf_counter()
        self._took = self._written - now


def _runs(cell: Cell) -> tuple[str, ...]:
    return tuple(f"{CELLS}/{derived.study.name}" for derived in cell.studies)
