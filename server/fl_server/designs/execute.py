"""Run the studies of a design one after another; what has finished is not run again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from fl_server import durable
from fl_server.checkpoint import RunDirectory
from fl_server.designs.collect import collect
from fl_server.designs.derive import Derived, DesignPlan
from fl_server.designs.files import write_studies
from fl_server.designs.result import FILE, DesignResult
from fl_server.launch import STUDY, outcome, prepare
from fl_server.report.design import write_design_report
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import Results

STUDIES, REPORT, SIMULATION = "studies", "report.html", "simulation"
Run = Callable[[Derived, Path, Path], Results]
"""Runs one study to its end: the study, its file, its prepared folder."""


def execute(
    plan: DesignPlan, *, run: Run, runs: Path, weights: Mapping[str, Path], simulated: bool, console: Console
) -> tuple[DesignResult, Path]:
    """Run what has not finished; the result is collected anew after every study.

    Args:
        plan: the design.
        run: runs one study.
        runs: folder of all runs; the design's own is ``runs/<study>_<design>``.
        weights: name -> directory of the pretrained weights that the study names.
        simulated: whether ``run`` simulates.
        console: told which study is next.

    Returns:
        The result and its folder.

    Raises:
        ConsiliumError: a study fails; the others' results are kept, and calling again continues.
    """
    folder = _claim(plan, runs)
    files = write_studies(plan, folder / STUDIES)
    found: dict[str, Results] = {}
    result = collect(plan, found, simulated=simulated)
    for number, derived in enumerate(plan.studies, start=1):
        place = prepare(files[derived.arm], runs=runs, weights=weights)
        _of_one_kind(place, simulated=simulated)
        done = outcome(place)
        told = f"study {number} of {len(plan.studies)}: {derived.study.name}"
        if isinstance(done, Results):
            console.print(f"{told} has finished before", highlight=False, markup=False)
        else:
            console.print(told, highlight=False, markup=False)
            done = run(derived, files[derived.arm], place)
        found[derived.arm] = done
        result = collect(plan, found, simulated=simulated)
        _write(result, folder)
    return result, folder


def _claim(plan: DesignPlan, runs: Path) -> Path:
    """The folder of the design's result, which must be no study's run.

    Raises:
        ConsiliumError: it is (19).
    """
    folder = runs / plan.name
    if (folder / STUDY).exists() or RunDirectory(folder).read_results() is not None:
        message = f"{folder} holds a run of a study of that name. Use another --runs."
        raise ConsiliumError(message, code=ExitCode.CHECKPOINT)
    return folder


def read_design(folder: Path) -> DesignResult | None:
    """``design.json`` of a design's folder, or None."""
    path = folder / FILE
    return DesignResult.model_validate_json(path.read_bytes()) if path.exists() else None


def _of_one_kind(place: Path, *, simulated: bool) -> None:
    """Simulated rounds are no rounds of hospitals, nor the other way round."""
    began, other = (place / "rounds").exists(), not simulated
    if began and (place / SIMULATION).exists() is other:
        raise ConsiliumError(
            f"{place} holds {'simulated' if other else 'deployed'} rounds. Use another --runs.",
            code=ExitCode.CHECKPOINT,
        )


def _write(result: DesignResult, folder: Path) -> None:
    try:
        durable.write_file(folder / FILE, result.model_dump_json(by_alias=True, indent=2).encode())
    except OSError as error:
        raise durable.disk_error(folder / FILE, error) from error
    write_design_report(result, folder / REPORT)
