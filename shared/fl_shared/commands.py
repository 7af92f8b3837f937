"""What every command line shares: errors in words, numbered exit codes, text or JSON output."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track as rich_track

from fl_shared.errors import ConsiliumError, ExitCode

T = TypeVar("T")


class Format(StrEnum):
    """How a command prints its result (``--format``)."""

    TEXT = "text"
    JSON = "json"


def emit(data: Mapping[str, Any], *, fmt: Format, text: Callable[[Console], None]) -> None:
    """Print a result on stdout: ``data`` as JSON, or whatever ``text`` draws on the console."""
    if fmt is Format.JSON:
        _print_json(data)
    else:
        text(Console())


def track(items: Iterable[T], description: str) -> Iterable[T]:
    """The items, with a progress bar on stderr while a person watches (none in logs and pipes)."""
    console = Console(stderr=True)
    return rich_track(items, description, console=console, transient=True, disable=not console.is_terminal)


def run(app: typer.Typer) -> None:
    """Run a command line as a process: every failure becomes a message and an exit code.

    A `ConsiliumError` is printed with all its faults (on stderr; with ``--format json`` as one object on stdout) and
    exits with its own code. Anything unexpected is one line and the path of a private traceback file, exit code 1;
    ``CONSILIUM_DEBUG=1`` prints the traceback instead.
    """
    try:
        app()
    except ConsiliumError as error:
        _fail(error.as_json(), lines=[error.message, *(f"  - {fault}" for fault in error.faults)], code=error.code)
    except Exception as error:  # noqa: BLE001 - the last door: nobody is left to handle it
        debug = os.environ.get("CONSILIUM_DEBUG", "") not in {"", "0"}
        if debug:
            traceback.print_exc()
        problem = " ".join(f"unexpected {type(error).__name__}: {error}".split())
        where = "" if debug else str(_write_traceback())
        hint = [f"Traceback: {where} (or set CONSILIUM_DEBUG=1)"] if where else []
        body = {"error": problem, "code": int(ExitCode.FAILED), "name": ExitCode.FAILED.name, "traceback": where}
        _fail(body, lines=[problem, *hint], code=ExitCode.FAILED)


def _fail(body: Mapping[str, Any], *, lines: list[str], code: ExitCode) -> NoReturn:
    """Print one failure and leave."""
    if _json_wanted(sys.argv[1:]):
        _print_json(body)
    else:
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        console.print(f"[bold red]Error[/] {escape(lines[0])}")
        for line in lines[1:]:
            console.print(escape(line))
    sys.exit(int(code))


def _json_wanted(arguments: list[str]) -> bool:
    """Whether the command line asks for JSON; read from the raw arguments, since the error may precede parsing."""
    return "--format=json" in arguments or ("--format", "json") in pairwise(arguments)


def _print_json(body: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _write_traceback() -> Path:
    """The current traceback in a file that only its owner can read (it may name patients' files)."""
    handle, name = tempfile.mkstemp(prefix="consilium-", suffix=".traceback.txt")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(traceback.format_exc())
    return Path(name)
