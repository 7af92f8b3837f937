"""``fl-server evaluate``: sites that took no part judge a finished model, long after it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fl_shared.commands import Format, emit
from fl_shared.errors import ConsiliumError, ExitCode

TrustOption = Annotated[Path | None, typer.Option(help="Public key that bundles must be signed by.")]
UnsignedOption = Annotated[bool, typer.Option("--unsigned", help="Take a bundle that nobody vouches for.")]


def evaluate(
    model: Annotated[Path, typer.Option(help="The model: a finished run's folder, or a bundle.", exists=True)],
    study: Annotated[
        Path | None, typer.Argument(help="The evaluate-only study.toml that the sites approved.", exists=True)
    ] = None,
    sites: Annotated[str, typer.Option(help="NAME,NAME: who shall judge; none that trained the model.")] = "",
    write: Annotated[Path | None, typer.Option(help="Write the study for these sites to approve, and stop.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="A second model, on the same patients: a run or a bundle.", exists=True)
    ] = None,
    name: Annotated[str, typer.Option(help="Of the study that is written; made from the model's when absent.")] = "",
    trust: TrustOption = None,
    unsigned: UnsignedOption = False,
    home: Annotated[Path, typer.Option("--home", help="Coordinator's folder.")] = Path("coordinator"),
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.TEXT,
) -> None:
    """Let sites judge a finished model, long after its training: first --sites and --write, then with what was written.

    1. fl-server evaluate --model runs/NAME --sites xian,wuhan --write eval.toml   (each site approves eval.toml)
    2. fl-server evaluate eval.toml --model runs/NAME
    """
    from fl_server.promotion.source import read_source

    if (study is None) == (write is None):
        problem = "give either --sites and --write (to write a study), or a study to run (and no --write)"
        raise ConsiliumError(problem, code=ExitCode.USAGE)
    first = read_source(model, trust=trust, unsigned=unsigned)
    second = read_source(against, trust=trust, unsigned=unsigned) if against is not None else None
    warnings = list(dict.fromkeys(filter(None, (first.unsigned, second.unsigned if second is not None else ""))))
    if study is None and write is not None:
        body = _written(write, first, second, sites=sites, name=name)
        emit(body | {"warnings": warnings}, fmt=fmt, text=lambda c: _say(c, body, warnings))
        return
    assert study is not None
    _run(study, first, second, warnings=warnings, home=home, runs=runs, fmt=fmt)


def _written(path: Path, first: Any, second: Any, *, sites: str, name: str) -> dict[str, Any]:
    from fl_shared.judged import judging_study
    from fl_shared.written import write_model

    names = [site.strip() for site in sites.split(",") if site.strip()]
    if not names:
        raise ConsiliumError("--sites NAME,NAME: name at least one site", code=ExitCode.USAGE)
    if path.exists():
        raise ConsiliumError(f"{path} exists already. Choose another --write.", code=ExitCode.USAGE)
    made = judging_study(
        first.finished, sites=names, name=name, against=second.finished if second is not None else None
    )
    what = f"model of study '{first.finished.study.name}' ({first.finished.identity})"
    write_model(path, made, header=f"Evaluate-only: the finished {what} is judged; nothing is trained.")
    return {"study": made.name, "hash": made.identity, "sites": names, "written": str(path)}


def _say(console: Console, body: dict[str, Any], warnings: list[str]) -> None:
    lines = [
        *warnings,
        f"{body['written']}: study '{body['study']}' ({body['hash']})",
        f"at {', '.join(body['sites'])}: fl-client --site NAME approve {body['written']}",
        f"then: fl-server evaluate {body['written']} --model …",
    ]
    console.print("\n".join(lines), soft_wrap=True, highlight=False, markup=False)


def _run(study: Path, first: Any, second: Any, *, warnings: list[str], home: Path, runs: Path, fmt: Format) -> None:
    from fl_server import superlink
    from fl_server.promotion.judging import prepare_judging
    from fl_server.report.table import headline_table
    from fl_server.watch import submit_and_wait

    place = superlink.Home(path=home.resolve())
    folder = prepare_judging(study, first, against=second, runs=runs)
    place.address()
    results = submit_and_wait(place, study, folder, console=Console(stderr=True))
    body = results.model_dump(mode="json", by_alias=True) | {"report": str(folder / "report.html")}

    def show(console: Console) -> None:
        headline_table(results, console)
        for line in (*warnings, *results.notes):
            console.print(f"note: {line}", highlight=False, markup=False)
        console.print(f"report: {folder / 'report.html'}\nresults: {folder / 'results.json'}", soft_wrap=True)

    emit(body | {"warnings": warnings}, fmt=fmt, text=show)
