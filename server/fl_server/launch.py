"""From a study file to a run: prepare its folder once, conduct it in the ServerApp, tell what came of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from fl_server.checkpoint import RunDirectory
from fl_server.events import EventLog
from fl_server.fleet import Fleet
from fl_server.report.page import write_report
from fl_server.rounds import run_study
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import Results
from fl_shared.study import Study, load_study

STUDY, INITIAL, FAILURE, REPORT = "study.json", "initial.safetensors", "failure.json", "report.html"


def prepare(study_path: Path, *, runs: Path, weights: Mapping[str, Path] | None = None) -> Path:
    """Make ``runs/<study>/`` with the resolved study and the initial model; an unfinished run is continued.

    Args:
        study_path: the study.
        runs: folder of all runs.
        weights: name -> local directory of the pretrained weights that the study names.

    Raises:
        ConsiliumError: STUDY, the file is invalid; CHECKPOINT, the folder belongs to another study.
    """
    study = load_study(study_path)
    folder = runs / study.name
    stored = folder / STUDY
    if stored.exists() and load_prepared(folder).identity != study.identity:
        raise ConsiliumError(
            f"{folder} holds a run of another version of study '{study.name}'. Rename the study or use another --runs.",
            code=ExitCode.CHECKPOINT,
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FAILURE).unlink(missing_ok=True)
    if not (folder / INITIAL).exists():
        _write_initial(study, folder / INITIAL, weights or {})
    stored.write_text(study.model_dump_json(by_alias=True, indent=2), encoding="utf-8")
    return folder


def _write_initial(study: Study, path: Path, weights: Mapping[str, Path]) -> None:
    from safetensors.numpy import save  # here, with torch: the ServerApp process needs neither

    from fl_shared.models.build import build_model, select

    part = path.with_suffix(".tmp")
    part.write_bytes(save(select(build_model(study, weights=weights))))
    part.replace(path)


def load_prepared(folder: Path) -> Study:
    """The study of a prepared run."""
    return Study.model_validate_json((folder / STUDY).read_text(encoding="utf-8"))


def conduct(folder: Path, fleet: Fleet, *, ledgers: Path | None = None) -> Results:
    """Run (or continue) a prepared study to its end and write its report; ``ledgers`` as in `run_study`.

    Raises:
        ConsiliumError: written to ``failure.json`` too, for whoever waits in another process.
    """
    from safetensors.numpy import load

    try:
        initial = load((folder / INITIAL).read_bytes())
        run = RunDirectory(folder)
        results = run_study(
            study=load_prepared(folder),
            fleet=fleet,
            run=run,
            initial=initial,
            log=EventLog(run.events),
            ledgers=ledgers,
        )
        write_report(results, folder / REPORT)
        return results
    except ConsiliumError as error:
        _record_failure(folder, error)
        raise
    except Exception as error:
        _record_failure(folder, ConsiliumError(f"unexpected {type(error).__name__}: {error}", code=ExitCode.FAILED))
        raise


def _record_failure(folder: Path, error: ConsiliumError) -> None:
    part = folder / f"{FAILURE}.tmp"
    part.write_text(json.dumps(error.as_json() | {"text": str(error), "pid": os.getpid()}), encoding="utf-8")
    part.replace(folder / FAILURE)


def outcome(folder: Path) -> Results | ConsiliumError | None:
    """What came of a run: its results, its failure, or nothing yet."""
    failure = folder / FAILURE
    if failure.exists():
        body = json.loads(failure.read_text(encoding="utf-8"))
        return ConsiliumError(str(body["text"]), code=ExitCode(int(body["code"])))
    return RunDirectory(folder).read_results() if (folder / REPORT).exists() else None
