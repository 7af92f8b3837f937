"""Progress of a comparison: cells done and running, and a line of each that has ended."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fl_server.comparison.work import Done


class Shown:
    """A bar while a person watches; lines only in logs and pipes."""

    def __init__(self, console: Console, *, total: int, what: str = "cells") -> None:
        self._console, self._total, self._what = console, total, what
        self._running: dict[str, None] = {}
        self._number = 0
        self._bar = Progress(
            TextColumn(what),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def skipped(self, number: int) -> None:
        """So many had finished before, or are refused."""
        if number:
            self._number = number
            self._bar.update(self._task, completed=number, total=self._total)
            self._say(f"{number} of {self._total} {self._what} have finished before or are refused")

    def started(self, title: str) -> None:
        """One begins."""
        self._running[title] = None
        self._draw()

    def ended(self, title: str, done: Done) -> None:
        """One has ended."""
        self._running.pop(title, None)
        self._number += 1
        self._bar.advance(self._task)
        self._draw()
        told = f" in {done.seconds:.1f} s" if done.seconds is not None else ""
        why = f": {done.reason}" if done.reason else ""
        self._say(f"{self._number} of {self._total} {title}: {done.state}{told}{why}")

    def _draw(self) -> None:
        self._bar.update(self._task, description=", ".join(self._running))

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
