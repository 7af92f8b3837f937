from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from fl_shared.commands import Format, emit, run, track
from fl_shared.errors import ConsiliumError, ExitCode, Fault

FAULT = Fault(file="site.toml", key="timezone", value="'[x]'", problem="unknown", mend="Use an IANA name.")


def exit_code(monkeypatch, *, raises: Exception | None, arguments: tuple[str, ...] = ()) -> int:
    app = typer.Typer()

    @app.command()
    def command(fmt: Format = typer.Option(Format.TEXT, "--format")) -> None:
        if raises is not None:
            raise raises
        emit({"patients": 3, "name": "南京"}, fmt=fmt, text=lambda console: console.print("three patients"))

    monkeypatch.setattr("sys.argv", ["tool", *arguments])
    with pytest.raises(SystemExit) as stop:
        run(app)
    return int(stop.value.code or 0)


def test_result_as_text_and_as_json(monkeypatch, capsys):
    assert exit_code(monkeypatch, raises=None) == 0
    assert capsys.readouterr().out == "three patients\n"
    assert exit_code(monkeypatch, raises=None, arguments=("--format", "json")) == 0
    out = capsys.readouterr().out
    assert json.loads(out) == {"patients": 3, "name": "南京"}
    assert "南京" in out


def test_known_error_prints_every_fault_and_exits_with_its_code(monkeypatch, capsys):
    error = ConsiliumError("site.toml: 1 fault(s)", code=ExitCode.SITE, faults=[FAULT])
    assert exit_code(monkeypatch, raises=error) == ExitCode.SITE
    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"  - {FAULT}" in printed.err  # brackets are not taken for markup


@pytest.mark.parametrize("arguments", [("--format", "json"), ("--format=json",)])
def test_known_error_as_json_on_stdout(monkeypatch, capsys, arguments):
    error = ConsiliumError("site.toml: 1 fault(s)", code=ExitCode.SITE, faults=[FAULT])
    assert exit_code(monkeypatch, raises=error, arguments=arguments) == ExitCode.SITE
    printed = capsys.readouterr()
    assert json.loads(printed.out) == error.as_json()
    assert printed.err == ""


def test_unexpected_error_is_one_line_and_a_private_traceback(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv("CONSILIUM_DEBUG", raising=False)
    assert exit_code(monkeypatch, raises=ValueError("two\nlines")) == ExitCode.FAILED
    err = capsys.readouterr().err.splitlines()
    (path,) = tmp_path.iterdir()
    assert err[0] == "Error unexpected ValueError: two lines"
    assert str(path) in err[1] and len(err) == 2
    assert "Traceback" in path.read_text() and path.stat().st_mode & 0o077 == 0


def test_debug_shows_the_traceback_and_writes_no_file(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CONSILIUM_DEBUG", "1")
    assert exit_code(monkeypatch, raises=ValueError("x")) == ExitCode.FAILED
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    assert not list(Path(tmp_path).iterdir())


def test_wrong_option_is_typers_own_exit(monkeypatch, capsys):
    assert exit_code(monkeypatch, raises=None, arguments=("--nonsense",)) == ExitCode.USAGE
    assert "nonsense" in capsys.readouterr().err


def test_track_gives_the_items_and_is_silent_in_pipes(capsys):
    assert list(track([1, 2, 3], "counting")) == [1, 2, 3]
    assert capsys.readouterr() == ("", "")
