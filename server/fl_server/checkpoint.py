"""Committed rounds on disk: each a folder with checksums, chained to the round before it.

``runs/<study>/``: ``rounds/round_0000`` (the initial model), ``rounds/round_0001`` …, ``final``, ``recalibrated`` (the
final model with refitted intercepts, in studies that ask for it), ``learning`` (learning curves), ``failures.jsonl``,
``events.jsonl``, ``results.json``. A folder holds ``model.safetensors``, ``manifest.json`` and, for strategies that
have one, ``strategy.safetensors`` (float64). Rounds hold the shared groups; round 0 and ``final`` the whole model.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from fl_server import durable
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import Results, RoundResult, SiteRound
from fl_shared.toml import Section
from fl_shared.wire import Arrays

MODEL, STATE, MANIFEST = "model.safetensors", "strategy.safetensors", "manifest.json"
_log = logging.getLogger(__name__)


class Manifest(Section):
    """What a committed folder holds and how it came about. ``parent`` is the SHA-256 of the previous manifest."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    round: int
    study: str
    parent: str
    files: dict[str, str] = Field(description="file name -> SHA-256")
    sites: dict[str, SiteRound] = Field(default={})
    seconds: float = 0.0
    epsilon: dict[str, float] = Field(default={}, description="site -> highest epsilon it has reported so far")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A verified committed folder: ``digest`` is the SHA-256 of its manifest."""

    manifest: Manifest
    digest: str
    model: Arrays
    state: Arrays


class RunDirectory:
    """The folder of one study's run. Only the holder of `lock` writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rounds = path / "rounds"
        self.final = path / "final"
        self.recalibrated = path / "recalibrated"
        self.events = path / "events.jsonl"
        self.results = path / "results.json"
        self._failures = path / "failures.jsonl"

    def lock(self) -> AbstractContextManager[None]:
        """Keep a second coordinator out; raises ConsiliumError ALREADY_RUNNING."""
        try:
            self.rounds.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise durable.disk_error(self.rounds, error) from error
        return durable.locked(self.path / ".lock", what=f"A run in {self.path}")

    def sweep(self) -> None:
        """Remove half-written folders of a crash (holder of the lock only)."""
        durable.sweep(self.path)
        durable.sweep(self.rounds)

    def commit(
        self,
        *,
        previous: Snapshot | None,
        study: str,
        model: Arrays,
        state: Arrays,
        sites: Mapping[str, SiteRound],
        seconds: float,
        epsilon: Mapping[str, float],
    ) -> Snapshot:
        """Commit the round after ``previous`` (round 0 when None); unverified folders in its place are set aside.

        Raises:
            ConsiliumError: the disk is full or not writable (CHECKPOINT); the rounds before are untouched.
        """
        number = 0 if previous is None else previous.manifest.round + 1
        return self._write(
            self._folder(number),
            Manifest(
                round=number,
                study=study,
                parent=previous.digest if previous else "",
                files={},
                sites=dict(sites),
                seconds=seconds,
                epsilon=dict(epsilon),
            ),
            model=model,
            state=state,
            instead_of=[folder for folder in self.rounds.glob("round_*") if _number(folder) >= number],
        )

    def commit_final(
        self, *, last: Snapshot, model: Arrays, sites: Mapping[str, SiteRound], epsilon: Mapping[str, float]
    ) -> Snapshot:
        """Commit the whole final model; raises as `commit` does."""
        return self._commit_whole(self.final, parent=last, model=model, sites=sites, epsilon=epsilon)

    def commit_recalibrated(
        self, *, final: Snapshot, model: Arrays, sites: Mapping[str, SiteRound], epsilon: Mapping[str, float]
    ) -> Snapshot:
        """Commit the recalibrated form of the final model; raises as `commit` does."""
        return self._commit_whole(self.recalibrated, parent=final, model=model, sites=sites, epsilon=epsilon)

    def _commit_whole(
        self,
        target: Path,
        *,
        parent: Snapshot,
        model: Arrays,
        sites: Mapping[str, SiteRound],
        epsilon: Mapping[str, float],
    ) -> Snapshot:
        manifest = Manifest(
            round=parent.manifest.round,
            study=parent.manifest.study,
            parent=parent.digest,
            files={},
            sites=dict(sites),
            epsilon=dict(epsilon),
        )
        instead_of = [target] if target.exists() else []
        return self._write(target, manifest, model=model, state={}, instead_of=instead_of)

    def latest(self, *, study: str) -> Snapshot | None:
        """The last round whose checksums and chain verify; warns of every folder that does not.

        Raises:
            ConsiliumError: the rounds belong to another study, or there are rounds and none verifies (CHECKPOINT).
        """
        chain = self._chain(study)
        for number in range(len(chain) - 1, -1, -1):
            try:
                return _load(self._folder(number), *chain[number])
            except (OSError, ValueError, SafetensorError) as error:
                _log.warning("%s does not verify (%s): falling back to the round before", self._folder(number), error)
        if any(self.rounds.glob("round_*")):
            raise ConsiliumError(
                f"{self.rounds}: no committed round verifies. Restore the folder from a backup, or move it away to "
                "start the study anew.",
                code=ExitCode.CHECKPOINT,
            )
        return None

    def initial(self, *, study: str) -> Snapshot:
        """Round 0: the whole initial model. Raises ConsiliumError (CHECKPOINT) when it does not verify."""
        try:
            return _load(self._folder(0), *self._chain(study)[0])
        except (IndexError, OSError, ValueError, SafetensorError) as error:
            raise ConsiliumError(
                f"{self._folder(0)}: the initial model does not verify. Restore this folder from a backup.",
                code=ExitCode.CHECKPOINT,
            ) from error

    def load_final(self, *, last: Snapshot) -> Snapshot | None:
        """The final model when it verifies and belongs to ``last``; None (with a warning) otherwise."""
        return self._load_whole(self.final, parent=last)

    def load_recalibrated(self, *, final: Snapshot) -> Snapshot | None:
        """The recalibrated model when it verifies and belongs to ``final``; None (with a warning) otherwise."""
        return self._load_whole(self.recalibrated, parent=final)

    def _load_whole(self, folder: Path, *, parent: Snapshot) -> Snapshot | None:
        if not folder.exists():
            return None
        try:
            manifest, digest = _read_manifest(folder)
            if manifest.parent != parent.digest:
                raise ValueError("it belongs to another model")
            return _load(folder, manifest, digest)
        except (OSError, ValueError, SafetensorError) as error:
            _log.warning("%s does not verify (%s): it is made again", folder, error)
            return None

    def history(self, *, last: Snapshot) -> tuple[RoundResult, ...]:
        """Every committed round up to ``last`` and every failed one, in order; a failure precedes its repetition."""
        committed = [
            RoundResult(round=m.round, outcome="committed", seconds=m.seconds, sites=m.sites)
            for m, _ in self._chain(last.manifest.study)[: last.manifest.round + 1]
        ]
        return tuple(sorted([*self.failures(), *committed], key=lambda r: (r.round, r.outcome == "committed")))

    def digests(self, *, last: Snapshot) -> tuple[str, ...]:
        """SHA-256 of the manifest of every committed round up to ``last``, from round 0 on."""
        return tuple(digest for _, digest in self._chain(last.manifest.study)[: last.manifest.round + 1])

    def failures(self) -> tuple[RoundResult, ...]:
        """Rounds that missed their quorum."""
        if not self._failures.exists():
            return ()
        found = []
        for line in self._failures.read_bytes().splitlines():
            try:
                found.append(RoundResult.model_validate_json(line))
            except ValidationError:
                _log.warning("%s: a torn line of an interrupted write is skipped", self._failures)
        return tuple(found)

    def record_failure(self, result: RoundResult) -> None:
        """Keep a failed round; raises ConsiliumError (CHECKPOINT) when the disk refuses."""
        try:
            durable.append_line(self._failures, result.model_dump_json())
        except OSError as error:
            raise durable.disk_error(self._failures, error) from error

    def write_results(self, results: Results) -> None:
        """Write ``results.json`` atomically; raises ConsiliumError (CHECKPOINT) when the disk refuses."""
        try:
            durable.write_file(self.results, results.model_dump_json(by_alias=True, indent=2).encode())
        except OSError as error:
            raise durable.disk_error(self.results, error) from error

    def read_results(self) -> Results | None:
        """``results.json`` of a finished run, or None."""
        if not self.results.exists():
            return None
        return Results.model_validate_json(self.results.read_bytes())

    def _folder(self, number: int) -> Path:
        return self.rounds / f"round_{number:04d}"

    def _chain(self, study: str) -> list[tuple[Manifest, str]]:
        """Manifests of rounds 0, 1, … as far as each exists, is readable and names the one before as its parent."""
        chain: list[tuple[Manifest, str]] = []
        while (folder := self._folder(len(chain))).exists():
            try:
                manifest, digest = _read_manifest(folder)
                if manifest.study != study:
                    raise ConsiliumError(
                        f"{folder} belongs to another study or package version ({manifest.study[:12]}, asked for "
                        f"{study[:12]}). Use a new run directory.",
                        code=ExitCode.CHECKPOINT,
                    )
                if (manifest.round, manifest.parent) != (len(chain), chain[-1][1] if chain else ""):
                    raise ValueError("it does not continue the round before")
            except (OSError, ValueError) as error:
                _log.warning("%s does not verify (%s): it and later rounds are not used", folder, error)
                break
            chain.append((manifest, digest))
        return chain

    def _write(
        self, target: Path, draft: Manifest, *, model: Arrays, state: Arrays, instead_of: Iterable[Path]
    ) -> Snapshot:
        """Write a folder; unusable ones in its place are kept under ``set_aside`` for inspection."""
        files = {MODEL: _encode(model)} | ({STATE: _encode(state)} if state else {})
        manifest = draft.model_copy(update={"files": {name: _sha256(content) for name, content in files.items()}})
        text = manifest.model_dump_json(by_alias=True, indent=2).encode()
        try:
            for folder in instead_of:
                aside = self.path / "set_aside"
                aside.mkdir(exist_ok=True)
                folder.rename(aside / f"{folder.name}.{time.time_ns()}")
            durable.write_folder(target, {**files, MANIFEST: text})
        except OSError as error:
            raise durable.disk_error(target, error) from error
        return Snapshot(manifest=manifest, digest=_sha256(text), model=model, state=state)


def _read_manifest(folder: Path) -> tuple[Manifest, str]:
    content = (folder / MANIFEST).read_bytes()
    return Manifest.model_validate_json(content), _sha256(content)


def _load(folder: Path, manifest: Manifest, digest: str) -> Snapshot:
    """Read and check every file of a folder; raises OSError, ValueError or SafetensorError."""
    contents = {name: (folder / name).read_bytes() for name in manifest.files}
    for name, content in contents.items():
        if _sha256(content) != manifest.files[name]:
            raise ValueError(f"{name}: checksum differs")
    state = load_safetensors(contents[STATE]) if STATE in contents else {}
    return Snapshot(manifest=manifest, digest=digest, model=load_safetensors(contents[MODEL]), state=state)


def _encode(arrays: Arrays) -> bytes:
    return save_safetensors({name: np.asarray(array, order="C") for name, array in arrays.items()})


def _number(folder: Path) -> int:
    """Round of a folder; -1 for a name that no commit gives."""
    digits = folder.name.removeprefix("round_")
    return int(digits) if digits.isdecimal() else -1


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
