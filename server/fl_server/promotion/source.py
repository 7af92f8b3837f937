"""Where a finished model comes from: the folder of a run, or a model bundle."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fl_server.checkpoint import RunDirectory, Snapshot
from fl_server.launch import STUDY
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.judged import Finished
from fl_shared.model_bundle import is_bundle, read_bundle, trusted
from fl_shared.model_card import trained_identity
from fl_shared.plans_finished import Whose
from fl_shared.results import Results
from fl_shared.study import Study


@dataclass(frozen=True, kw_only=True)
class Source:
    """A finished model and what is known of it; ``unsigned`` is the warning of a bundle that nobody vouches for."""

    finished: Finished
    canonical: str
    results: Results
    round: int
    unsigned: str = ""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished run: its study as it was then, and what came of it."""

    folder: RunDirectory
    study: Study
    identity: str
    canonical: str
    results: Results


def read_source(path: Path, *, trust: Path | None = None, unsigned: bool = False) -> Source:
    """The model of a run (the one that its study would promote) or of a bundle.

    Raises:
        ConsiliumError: it does not verify, or the run has not finished (exit code 19); of a bundle, nobody is trusted
            (2).
    """
    if is_bundle(path):
        bundle = read_bundle(path, trust=trusted(trust, unsigned=unsigned))
        model = Finished(study=bundle.study, identity=bundle.card.study, arrays=bundle.arrays, model=bundle.card.model)
        text = bundle.canonical
        return Source(
            finished=model, canonical=text, results=bundle.results, round=bundle.card.round, unsigned=bundle.unsigned
        )
    run = read_run(path)
    return model_of(run, run.study.promotion.model if run.study.promotion is not None else "federated")


def read_run(path: Path) -> Run:
    """A finished run.

    Raises:
        ConsiliumError: it has not finished, or its study is not the one that its results are of (exit code 19).
    """
    folder = RunDirectory(path)
    results = folder.read_results()
    if results is None:
        message = f"{path} holds no results.json: no run, or one that has not finished"
        raise ConsiliumError(f"{message}. Continue it: fl-server run study.toml", code=ExitCode.CHECKPOINT)
    try:
        written = json.loads((path / STUDY).read_text(encoding="utf-8"))
        study = Study.model_validate(written)
    except (OSError, ValueError, ValidationError) as error:
        raise ConsiliumError(f"{path / STUDY} cannot be read: {error}", code=ExitCode.CHECKPOINT) from error
    identity, canonical = trained_identity(written, package=results.study.package)
    if identity != results.study.hash:
        message = f"{path}: study.json (or this package's concept file) is not the one that results.json is of"
        raise ConsiliumError(f"{message}. Restore the folder, or use the package version of the run.",
                             code=ExitCode.CHECKPOINT)  # fmt: skip
    return Run(folder=folder, study=study, identity=identity, canonical=canonical, results=results)


def model_of(run: Run, whose: Whose) -> Source:
    """A model of a run: its final one, or that with refitted intercepts.

    Raises:
        ConsiliumError: there is none that verifies (exit code 19), or the run trained none (2).
    """
    if run.study.judged is not None:
        message = f"{run.folder.path} only judged a model. Name the run (or the bundle) of the model itself."
        raise ConsiliumError(message, code=ExitCode.USAGE)
    snapshot = _snapshot(run, whose)
    if snapshot is None:
        message = f"{run.folder.path} holds no {whose} model that verifies. Continue it: fl-server run study.toml"
        raise ConsiliumError(message, code=ExitCode.CHECKPOINT)
    model = Finished(study=run.study, identity=run.identity, arrays=snapshot.model, model=whose)
    return Source(finished=model, canonical=run.canonical, results=run.results, round=snapshot.manifest.round)


def _snapshot(run: Run, whose: Whose) -> Snapshot | None:
    last = run.folder.latest(study=run.identity)
    final = run.folder.load_final(last=last) if last is not None else None
    if final is None or whose == "federated":
        return final
    return run.folder.load_recalibrated(final=final)
