"""``fl-server``: everything that a coordinating centre does.

Exit codes: 0 ok, 2 usage, 10 study file, 11 site file, 13 sites refuse the study, 14 already running, 17 a round missed
its quorum or a comparison's cell failed, 18 coordinator or sites not reachable, 19 a committed round or a bundle does
not verify, 20 a threshold is missed, 1 anything else.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from fl_server import privacy_command
from fl_server.comparison.command import report_comparison
from fl_server.comparison.papers.command import paper_command
from fl_server.designs import command as designs
from fl_server.designs.command import DesignOption, SeedsOption
from fl_server.promotion.compare_command import compare
from fl_server.promotion.evaluate import evaluate
from fl_server.promotion.promote import promote
from fl_shared.commands import Format, emit, run
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.processes import set_environment
from fl_shared.results import Results

app = typer.Typer(
    help="Run by the coordinating centre: start a coordinator, run studies, read their reports.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)
app.add_typer(privacy_command.app, name="privacy")
FormatOption = Annotated[Format, typer.Option("--format", help="How to print the result.")]
HomeOption = Annotated[Path, typer.Option("--home", help="Coordinator's folder: certificates, database, logs.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder of all runs.")]
StudyArgument = Annotated[Path, typer.Argument(help="The study.toml.", exists=True, dir_okay=False)]
WeightsOption = Annotated[
    list[str] | None, typer.Option(help="NAME=DIR of pretrained weights that the study names (repeatable).")
]
HOME, RUNS = Path("coordinator"), Path("runs")
REFRESH_SECONDS = 5.0


@app.command()
def up(
    home: HomeOption = HOME,
    port: Annotated[int, typer.Option(help="Loopback port of SuperLink (0: a free one).")] = 0,
    host: Annotated[str, typer.Option(help="Name that sites connect to (in the certificate).")] = "127.0.0.1",
    runs: RunsOption = RUNS,
    metrics_port: Annotated[int, typer.Option(help="Loopback port of /metrics (0: a free one).")] = 0,
) -> None:
    """Start SuperLink on loopback, its executor and /metrics; serve until SIGTERM."""
    from fl_server import superlink
    from fl_server.metrics import CoordinatorMetrics

    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    place = superlink.Home(path=home.resolve())
    if place.endpoint.exists() and superlink.is_running(place):
        raise ConsiliumError(f"a coordinator already runs in {home}", code=ExitCode.ALREADY_RUNNING)
    with superlink.running(place, host=host, port=port) as processes:
        console = Console(stderr=True)
        console.print(f"SuperLink on {place.address()} (loopback, TLS); certificate for the sites: {place.ca}")
        metrics = CoordinatorMetrics(runs, certificate=place.path / "tls" / "server.crt")
        console.print(f"metrics: http://127.0.0.1:{metrics.serve(metrics_port)}/metrics")
        while not stop.wait(REFRESH_SECONDS):
            metrics.refresh(superlink.nodes(place))
            if any(process.poll() is not None for process in processes):
                raise ConsiliumError(f"a Flower process ended; see {place.path / 'logs'}", code=ExitCode.FAILED)


@app.command()
def register(
    site: Annotated[str, typer.Argument(help="Name of the site, as in studies.")],
    public_key: Annotated[Path, typer.Argument(help="The site's node.pub (fl-client --site NAME key).", exists=True)],
    home: HomeOption = HOME,
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Let the holder of a key take part under a site's name. Compare the fingerprint by voice first."""
    from fl_server import superlink

    place = superlink.Home(path=home.resolve())
    new = superlink.register(place, site=site, public_key=public_key)
    body = {"site": site, "fingerprint": superlink.fingerprint(public_key), "new": new}
    word = "registered" if new else "was registered already"
    emit(body, fmt=fmt, text=lambda c: c.print(f"{site} {word}; SHA-256 {body['fingerprint']}", soft_wrap=True))


@app.command()
def status(home: HomeOption = HOME, fmt: FormatOption = Format.TEXT) -> None:
    """Registered sites, and which are connected now."""
    from fl_server import superlink

    found = dict(superlink.nodes(superlink.Home(path=home.resolve())))
    lines = [f"{name:24} {state}" for name, state in sorted(found.items())] or ["no site is registered"]
    emit({"sites": found}, fmt=fmt, text=lambda console: console.print("\n".join(lines)))


@app.command(name="run")
def run_command(
    study: StudyArgument,
    home: HomeOption = HOME,
    runs: RunsOption = RUNS,
    weights: WeightsOption = None,
    design: DesignOption = None,
    seeds: SeedsOption = "",
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Run a study on the connected sites (or continue it after its last committed round), with live progress."""
    if design is not None or seeds:
        return designs.run_design(
            study, design=design, seeds=seeds, home=home, runs=runs, weights=_directories(weights), fmt=fmt
        )
    from fl_server import superlink
    from fl_server.launch import prepare
    from fl_server.watch import submit_and_wait
    from fl_shared.study import load_study

    load_study(study)  # its faults are told first, with or without a coordinator
    place = superlink.Home(path=home.resolve())
    place.address()
    folder = prepare(study, runs=runs, weights=_directories(weights))
    results = submit_and_wait(place, study, folder, console=Console(stderr=True))
    _show(results, folder, fmt)


@app.command()
def simulate(
    study: StudyArgument,
    sites_dir: Annotated[Path, typer.Option(help="Folder of all sites.")] = Path("sites"),
    runs: RunsOption = RUNS,
    weights: WeightsOption = None,
    design: DesignOption = None,
    seeds: SeedsOption = "",
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Run the same study through Flower's simulation engine, on this machine, without sockets."""
    if design is not None or seeds:
        return designs.simulate_design(
            study, design=design, seeds=seeds, sites_dir=sites_dir, runs=runs, weights=_directories(weights), fmt=fmt
        )
    from fl_server.launch import prepare
    from fl_server.simulation import simulate as run_simulation

    folder = prepare(study, runs=runs, weights=_directories(weights))
    _show(run_simulation(study, folder=folder, sites_dir=sites_dir), folder, fmt)


@app.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(help="An unmodified PTB-XL download; a synthetic cohort when absent.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where sites, coordinator and runs go.")] = Path("demo"),
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Everything on one machine: a site process each, a federated run, external validation, the report."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that every process is ended
    from fl_server.demo import demonstrate

    outcomes = demonstrate(data, out=out, console=Console(stderr=True))
    body = {"runs": [_body(results, folder) for results, folder in outcomes]}

    def text(console: Console) -> None:
        for results, folder in outcomes:
            _draw(results, folder, console)

    emit(body, fmt=fmt, text=text)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A run's folder (runs/NAME).", exists=True, file_okay=False)],
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Write report.html anew from results.json (design.json, comparison.json), and print the headline."""
    if designs.report_design(folder, fmt=fmt) or report_comparison(folder, fmt=fmt):
        return
    from fl_server.checkpoint import RunDirectory
    from fl_server.report.page import write_report

    results = RunDirectory(folder).read_results()
    if results is None:
        raise ConsiliumError(
            f"{folder} holds no results.json: the run has not finished. Continue it: fl-server run study.toml",
            code=ExitCode.CHECKPOINT,
        )
    write_report(results, folder / "report.html")
    _show(results, folder, fmt)


app.command(name="design")(designs.design_command)
app.command(name="paper")(paper_command)
app.command()(compare)
app.command()(promote)
app.command()(evaluate)


@app.command(name="compare-systems")
def compare_systems(
    file: Annotated[Path, typer.Argument(help="The comparison's file.", exists=True, dir_okay=False)],
    sites_dir: Annotated[Path, typer.Option(help="Folder of all sites.")] = Path("sites"),
    runs: RunsOption = RUNS,
    workers: Annotated[int | None, typer.Option(min=1, help="Cells at a time; as many as cores when absent.")] = None,
    weights: WeightsOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show cells and refusals, and stop.")] = False,
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Train many models of one study on this machine, in every mode and with every seed, and compare them in tables."""
    from fl_server.comparison.command import compare_systems as compare_all

    directories = _directories(weights)
    compare_all(file, sites_dir=sites_dir, runs=runs, workers=workers, weights=directories, plan=plan, fmt=fmt)


@app.command()
def without(
    study: StudyArgument,
    site: Annotated[str, typer.Argument(help="The site to leave out.")],
    out: Annotated[Path, typer.Option(help="The new study file; an existing one is never replaced.")],
    runs: RunsOption = RUNS,
    fmt: FormatOption = Format.TEXT,
) -> None:
    """Write a study anew without one site, and say which rounds of the old run contain it and what retraining costs.

    A model cannot forget: to be rid of a site's updates, train the new study from its start.
    """
    from dataclasses import asdict

    from fl_server.without import told, write_without

    found = write_without(study, site, out=out, runs=runs)
    emit(asdict(found), fmt=fmt, text=lambda c: c.print("\n".join(told(found)), soft_wrap=True, highlight=False))


@app.command()
def systems(fmt: FormatOption = Format.TEXT) -> None:
    """What a study can name: systems, encoders, fusions and heads, with sizes, sources and abilities."""
    from fl_server.systems_table import show
    from fl_shared.models.catalogue import catalogue

    found = catalogue()
    emit(found, fmt=fmt, text=lambda console: show(found, console))


def _directories(options: list[str] | None) -> dict[str, Path]:
    pairs = [option.partition("=") for option in options or []]
    if wrong := [name for name, _, where in pairs if not where]:
        raise ConsiliumError(f"--weights {wrong[0]}: write NAME=DIR", code=ExitCode.USAGE)
    return {name: Path(where) for name, _, where in pairs}


def _show(results: Results, folder: Path, fmt: Format) -> None:
    emit(_body(results, folder), fmt=fmt, text=lambda console: _draw(results, folder, console))


def _body(results: Results, folder: Path) -> dict[str, object]:
    return results.model_dump(mode="json", by_alias=True) | {"report": str(folder / "report.html")}


def _draw(results: Results, folder: Path, console: Console) -> None:
    from fl_server.report.table import headline_table

    headline_table(results, console)
    if results.statistics is not None:
        console.print(f"statistics: {folder / 'statistics.json'}; constants for a later study.toml:", soft_wrap=True)
        console.print(results.statistics.lines, markup=False, highlight=False)
    for note in results.notes:
        console.print(f"note: {note}", highlight=False)
    console.print(f"report: {folder / 'report.html'}\nresults: {folder / 'results.json'}", soft_wrap=True)


def main() -> None:
    """Entry point of ``fl-server``."""
    set_environment()
    run(app)


if __name__ == "__main__":
    main()
