"""The README, the deployment notes and the help texts say what is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import typer

import fl_client.cli
import fl_server.cli
import fl_sites.cli
from fl_shared.errors import ExitCode

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DEPLOY = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
PROGRAMS: dict[str, click.Command] = {
    "fl-server": typer.main.get_command(fl_server.cli.app),
    "fl-client": typer.main.get_command(fl_client.cli.app),
    "fl-sites": typer.main.get_command(fl_sites.cli.app),
}


CLICK = tuple(map(int, version("click").split(".")[:2]))


def by_hand() -> list[list[str]]:
    """The commands of the README's section 'By hand', as words; also those after '# or:'."""
    (block,) = re.findall(r"## By hand\n+```\n(.*?)```", README, re.DOTALL)
    lines = (line.partition("#")[0].strip().removesuffix("&") for line in block.splitlines())
    return [shlex.split(line) for line in (*lines, *re.findall(r"# or: (fl-.*)", block)) if line]


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    for word, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, f"{name} {word}")


def test_exit_codes_are_those_of_the_code() -> None:
    cells = re.findall(r"\| (\d+) \| ([^|]+) (?=\|)", README)
    told = {int(code): text.strip() for code, text in cells}
    assert sorted(map(int, (code for code, _ in cells))) == sorted(ExitCode)
    assert all(told.values())


@pytest.mark.parametrize("words", by_hand(), ids=" ".join)
def test_command_by_hand_exists_with_its_options(words: list[str]) -> None:
    command, rest = PROGRAMS[words[0]], words[1:]
    while True:  # from the program down to its last sub-command; an unknown option raises, nothing is run
        _, rest, _ = command.make_parser(click.Context(command)).parse_args(list(rest))
        if not isinstance(command, click.Group) or not rest:
            break
        assert rest[0] in command.commands
        command, rest = command.commands[rest[0]], rest[1:]
    assert not rest, "more arguments than the command takes"
    assert not isinstance(command, click.Group) or command.invoke_without_command, "a sub-command is missing"


def silent(kind: type[click.Parameter]) -> list[tuple[str, str | None]]:
    """Parameters without help."""
    found = [pair for name, program in PROGRAMS.items() for pair in commands(program, name)]
    parameters = [(name, p) for name, command in found for p in command.params if isinstance(p, kind)]
    assert parameters
    return [(name, p.name) for name, p in parameters if not getattr(p, "help", None)]


def test_every_command_and_option_has_help() -> None:
    found = [pair for name, program in PROGRAMS.items() for pair in commands(program, name)]
    assert not [name for name, command in found if not command.help]
    assert not silent(click.Option)


@pytest.mark.skipif(CLICK >= (8, 5), reason="typer 0.20 loses the help of arguments under click 8.5: pin click<8.5")
def test_every_argument_has_help() -> None:
    assert not silent(click.Argument)


def test_readme_names_no_host() -> None:
    assert set(re.findall(r"[\w.<>-]+:(?:\d{2,5}|PORT)\b", README)) <= {"HOST:PORT"}
    assert not re.search(r"https?://|\b\d{1,3}(?:\.\d{1,3}){3}\b|localhost", README)


def test_make_targets_exist() -> None:
    targets = set(
        re.findall(r"\bmake ([a-z]+)\b", " ".join(re.findall(r"^make .*|`make [^`]*`", README, re.MULTILINE)))
    )
    assert targets >= {"demo", "test"}
    assert targets <= set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_paths_in_the_readme_exist() -> None:
    top = r"(?:\.ci|client|deploy|server|shared|sites|tests)/"
    named = [path for path in re.findall(rf"`({top}[\w./@-]*)`", README)]
    assert "deploy/" in named
    assert not [path for path in named if not (ROOT / path).exists()]


def test_deployment_files_are_those_that_are_described() -> None:
    here = {path for path in (ROOT / "deploy").rglob("*") if path.is_file() and path.name != "README.md"}
    named = set(re.findall(r"`(?:[a-z]+/)?([\w@.-]+\.(?:service|conf|yml|md))`", DEPLOY))
    assert named == {path.name for path in here}
    paths = re.findall(r"`((?:systemd|nginx|prometheus)/[\w@.-]+)`", DEPLOY)
    assert paths and not [path for path in paths if not (ROOT / "deploy" / path).is_file()]
    assert {path.parent.name for path in here} <= set(re.findall(r"\w+", README.lower()))
