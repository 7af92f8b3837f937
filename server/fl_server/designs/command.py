"""``fl-server design``, and what ``run`` and ``simulate`` do with ``--design``."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fl_server.designs import Design
from fl_shared.commands import Format, emit

if TYPE_CHECKING:
    from fl_server.designs.derive import Derived
    from fl_server.designs.result import DesignResult
    from fl_shared.results import Results

HELP = "loso: leave every site out once. seeds: repeat with --seeds. sides: beside each site alone, and all pooled."
DesignOption = Annotated[Design | None, typer.Option(help=HELP)]
SeedsOption = Annotated[str, typer.Option(help="Of design 'seeds', e.g. 1,2,3.")]


def design_command(
    study: Annotated[Path, typer.Argument(help="The study.toml.", exists=True, dir_okay=False)],
    design: Annotated[Design, typer.Option(help=HELP)],
    seeds: SeedsOption = "",
    write: Annotated[Path | None, typer.Option(help="Folder for the studies' files, which the sites approve.")] = None,
    fmt: Annotated[Format, typer.Option("--format", help="How to print the result.")] = Format.TEXT,
) -> None:
    """Show the studies that a design derives from one, what each site pays for them, and write their files.

    Every one is a study of its own: have the sites approve its file, then fl-server run STUDY --design DESIGN.
    """
    from fl_server.designs.derive import asked
    from fl_server.designs.files import write_studies
    from fl_server.designs.table import costs, show_plan

    plan = asked(study, design, seeds)
    files = write_studies(plan, write) if write is not None else {}
    studies = [
        {
            "arm": derived.arm,
            "name": derived.study.name,
            "hash": derived.study.identity,
            "train": list(derived.study.train_sites),
            "external": list(derived.study.external_sites),
            "file": str(files[derived.arm]) if files else None,
        }
        for derived in plan.studies
    ]
    body = {"design": str(design), "study": plan.parent.name, "studies": studies, "epsilon": costs(plan)}
    emit(body, fmt=fmt, text=lambda console: show_plan(plan, files, console))


def run_design(
    study: Path, *, design: Design | None, seeds: str, home: Path, runs: Path, weights: Mapping[str, Path], fmt: Format
) -> None:
    """Run a design on the connected sites, which have approved each of its studies."""
    from fl_server import superlink
    from fl_server.designs.derive import asked
    from fl_server.designs.execute import execute
    from fl_server.designs.files import only_simulated
    from fl_server.watch import submit_and_wait

    plan = asked(study, design, seeds)
    only_simulated(plan)
    place, console = superlink.Home(path=home.resolve()), Console(stderr=True)
    place.address()

    def run(_: Derived, path: Path, folder: Path) -> Results:
        return submit_and_wait(place, path, folder, console=console)

    _tell(*execute(plan, run=run, runs=runs, weights=weights, simulated=False, console=console), fmt=fmt)


def simulate_design(
    study: Path,
    *,
    design: Design | None,
    seeds: str,
    sites_dir: Path,
    runs: Path,
    weights: Mapping[str, Path],
    fmt: Format,
) -> None:
    """Simulate a design on this machine."""
    from fl_server.designs.derive import asked
    from fl_server.designs.execute import execute
    from fl_server.simulation import simulate

    plan, console = asked(study, design, seeds), Console(stderr=True)
    logging.getLogger("flwr").setLevel(logging.ERROR)  # its own lines would tear the display

    def run(derived: Derived, path: Path, folder: Path) -> Results:
        with _shown(folder, console):
            return simulate(path, folder=folder, sites_dir=sites_dir, pools=derived.pools)

    _tell(*execute(plan, run=run, runs=runs, weights=weights, simulated=True, console=console), fmt=fmt)


def report_design(folder: Path, *, fmt: Format) -> bool:
    """Write the report of a design's folder anew and print its tables; False where the folder is none."""
    from fl_server.designs.execute import read_design
    from fl_server.report.design import write_design_report

    if (result := read_design(folder)) is None:
        return False
    write_design_report(result, folder / "report.html")
    _tell(result, folder, fmt=fmt)
    return True


def _tell(result: DesignResult, folder: Path, *, fmt: Format) -> None:
    from fl_server.designs.table import show_result

    body = result.model_dump(mode="json", by_alias=True) | {"report": str(folder / "report.html")}
    emit(body, fmt=fmt, text=lambda console: show_result(result, folder, console))


@contextmanager
def _shown(folder: Path, console: Console) -> Iterator[None]:
    """Live progress of a study while it is simulated; the engine wants the main thread for itself."""
    from fl_server.events import follow
    from fl_server.progress import show

    events, done = folder / "events.jsonl", threading.Event()
    start = events.stat().st_size if events.exists() else 0
    watched = follow(events, stop=done.is_set, start=start)
    watcher = threading.Thread(target=show, args=(watched,), kwargs={"console": console}, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
