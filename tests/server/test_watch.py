"""Whoever waits for a run gets its result, or the very error that ended the run or the watching."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fl_server import watch
from fl_shared.errors import ConsiliumError, ExitCode


@pytest.fixture
def wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Waits for a run whose outcome and status are what these functions give."""

    def start(*, outcome: Any, status: Any = lambda *_: ("running", "")) -> Any:
        monkeypatch.setattr(watch, "outcome", outcome)
        monkeypatch.setattr(watch.superlink, "run_status", status)
        monkeypatch.setattr(watch, "LOOK", 0.01)
        monkeypatch.setattr(watch, "ASK_EVERY", 0.0)
        home: Any = None  # no SuperLink: its answers are given above
        return watch.wait(home, 1, tmp_path, start=0, console=Console(file=io.StringIO()))

    return start


def fail(error: Exception) -> Any:
    def raises(*_: object) -> Any:
        raise error

    return raises


def test_the_result(wait: Any) -> None:
    told: Any = object()
    assert wait(outcome=lambda _: told) is told


@pytest.mark.parametrize(
    "error",
    [
        ValueError("half a file"),
        PermissionError("results.json"),
        ConsiliumError("no SuperLink", code=ExitCode.UNREACHABLE),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_watching_itself(wait: Any, error: Exception) -> None:
    with pytest.raises(type(error)) as seen:
        wait(outcome=fail(error))
    assert seen.value is error
    with pytest.raises(type(error)) as seen:
        wait(outcome=lambda _: None, status=fail(error))
    assert seen.value is error


def test_what_ended_the_run(wait: Any) -> None:
    error = ConsiliumError("too few", code=ExitCode.ROUND_FAILED)
    with pytest.raises(ConsiliumError) as seen:
        wait(outcome=lambda _: error)
    assert seen.value is error


def test_a_run_that_ended_without_a_word(wait: Any) -> None:
    with pytest.raises(ConsiliumError, match=r"the run ended \(crashed\) without a result"):
        wait(outcome=lambda _: None, status=lambda *_: ("finished", "crashed"))
