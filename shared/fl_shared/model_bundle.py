"""A finished model as a folder that a hospital which took no part can check and load: signed, without code or pickle.

``model.safetensors`` (every array that an external site judges with), ``study.json`` (canonical text of the study that
trained it, which also fixes all preprocessing; its SHA-256 is the study's identity), ``card.json``, ``results.json``,
``SHA256SUMS`` and ``SIGNATURE`` over it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from fl_shared import concepts
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.model_card import Card
from fl_shared.model_signature import sign, signer
from fl_shared.results import Results
from fl_shared.study import Study
from fl_shared.wire import WIRE_DTYPES, Arrays, digest

MODEL, STUDY, CARD, RESULTS = "model.safetensors", "study.json", "card.json", "results.json"
CONTENT = (CARD, MODEL, RESULTS, STUDY)
SUMS, SIGNATURE = "SHA256SUMS", "SIGNATURE"
ANEW = "Obtain the bundle anew."
_SUM = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_.]+)")
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class ModelBundle:
    """A bundle whose files fit one another.

    ``canonical`` is the text of the study, ``arrays`` the whole model; ``signer`` the fingerprint of the trusted key
    that signed it, None where the caller chose an unverified bundle: then `unsigned` must be shown wherever something
    of this model is shown.
    """

    study: Study
    canonical: str
    arrays: Arrays
    card: Card
    results: Results
    signer: str | None

    @property
    def unsigned(self) -> str:
        """The warning of an unverified bundle; empty for a verified one."""
        said = "UNSIGNED MODEL: nobody vouches for it, and nothing shows where it comes from (--unsigned)."
        return said if self.signer is None else ""


def is_bundle(folder: Path) -> bool:
    """Whether a folder looks like a bundle (and not like a run)."""
    return (folder / SUMS).exists() or (folder / CARD).exists()


def trusted(trust: Path | None, *, unsigned: bool) -> Path | None:
    """The key that ``--trust`` names, or None where ``--unsigned`` was said: one of the two must be.

    Raises:
        ConsiliumError: neither or both (exit code 2).
    """
    if (trust is None) != unsigned:
        problem = "say whom you trust: --trust KEY.pub, the coordinator's public key, or --unsigned (and not both)"
        raise ConsiliumError(problem, code=ExitCode.USAGE)
    return trust


def write_bundle(
    folder: Path, *, canonical: str, arrays: Arrays, card: Card, results: Results, private: Path | None
) -> None:
    """Write a bundle whole or not at all.

    Args:
        folder: must not exist.
        canonical: text of the study, as `trained_identity` gives it.
        arrays: the whole model.
        card: of this model.
        results: of the run that trained it.
        private: signing key; None leaves the bundle unsigned.

    Raises:
        ConsiliumError: ``folder`` exists (exit code 2).
    """
    if folder.exists():
        raise ConsiliumError(f"{folder} exists already. Choose another --out.", code=ExitCode.USAGE)
    files = {
        MODEL: save_safetensors({name: np.asarray(array, order="C") for name, array in arrays.items()}),
        STUDY: canonical.encode(),
        CARD: card.model_dump_json(by_alias=True, indent=2).encode(),
        RESULTS: results.model_dump_json(by_alias=True, indent=2).encode(),
    }
    sums = "".join(f"{_sha256(files[name])}  {name}\n" for name in sorted(files)).encode()
    files |= {SUMS: sums} | ({SIGNATURE: sign(sums, private)} if private is not None else {})
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".bundle-"))
    try:
        for name, content in files.items():
            with (part / name).open("wb") as stream:
                stream.write(content)
                os.fsync(stream.fileno())
        part.chmod(0o755)
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def read_bundle(folder: Path, *, trust: Path | None) -> ModelBundle:
    """Read and check a bundle; each file is read once, and what was checked is what is used.

    Args:
        folder: of the bundle.
        trust: public key whose signature is asked for; None where the user said ``--unsigned``.

    Raises:
        ConsiliumError: it does not verify (exit code 19, all faults at once); ``trust`` is no public key (2).
    """
    faults: list[Fault] = []

    def fault(file: str, problem: str, mend: str = ANEW) -> None:
        faults.append(Fault(file=str(folder / file), key="(file)", problem=problem, mend=mend))

    files = _files(folder, fault)
    for name, problem in _checksums(files):
        fault(name, problem)
    by: str | None = None
    if trust is not None:
        try:
            by = signer(files.get(SIGNATURE), files.get(SUMS, b""), trust=trust)
        except ValueError as error:
            mend = "Obtain the signed bundle and the key of its coordinator; --unsigned goes without, and says so."
            fault(SIGNATURE, str(error), mend)
    study, card, results, arrays = (
        _parsed(files, STUDY, lambda text: Study.model_validate(json.loads(text)["study"]), fault),
        _parsed(files, CARD, Card.model_validate_json, fault),
        _parsed(files, RESULTS, Results.model_validate_json, fault),
        _parsed(files, MODEL, _arrays, fault),
    )
    if card is not None:
        for name, problem in _contradictions(card, files, results, arrays):
            fault(name, problem)
        if card.concepts != concepts.digest():
            mend = f"Use the package version that trained it ({card.package}): inputs are scaled by that file."
            fault(CARD, "the concept file of this package differs from the one it was trained with", mend)
    if faults or study is None or card is None or results is None or arrays is None:
        message = f"{folder}: this model bundle does not verify, {len(faults)} fault(s)"
        raise ConsiliumError(message, code=ExitCode.CHECKPOINT, faults=faults)
    canonical = files[STUDY].decode()
    return ModelBundle(study=study, canonical=canonical, arrays=arrays, card=card, results=results, signer=by)


def _files(folder: Path, fault: Callable[[str, str], None]) -> dict[str, bytes]:
    """Content of every file that belongs to a bundle; what else lies there, or is missing, is a fault."""
    found: dict[str, bytes] = {}
    if not folder.is_dir():
        fault("", "no such folder")
        return found
    for path in sorted(folder.iterdir()):
        if path.name not in (*CONTENT, SUMS, SIGNATURE) or path.is_symlink() or not path.is_file():
            fault(path.name, "no file of a bundle")
        else:
            found[path.name] = path.read_bytes()
    for name in (*CONTENT, SUMS):
        if name not in found:
            fault(name, "missing")
    return found


def _checksums(files: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """(file, problem) of whatever the checksums do not cover."""
    if SUMS not in files:
        return
    lines = files[SUMS].decode(errors="replace").split("\n")
    rows = [_SUM.fullmatch(line) for line in lines[:-1]]
    if lines[-1] or not all(rows) or [row[2] for row in rows if row] != sorted(CONTENT):
        yield SUMS, "not the checksums of a bundle"
        return
    for row in rows:
        if row and row[2] in files and row[1] != _sha256(files[row[2]]):
            yield row[2], "checksum differs"


def _parsed(
    files: Mapping[str, bytes], name: str, read: Callable[[bytes], T], fault: Callable[[str, str], None]
) -> T | None:
    if name not in files:
        return None
    try:
        return read(files[name])
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        fault(name, f"unreadable: {' '.join(str(error).split())[:300]}")
        return None


def _arrays(content: bytes) -> Arrays:
    found = load_safetensors(content)
    for name, array in found.items():
        if str(array.dtype) not in WIRE_DTYPES or not np.isfinite(array).all():
            raise ValueError(f"{name}: {array.dtype}, or not finite")
    return found


def _contradictions(
    card: Card, files: Mapping[str, bytes], results: Results | None, arrays: Arrays | None
) -> Iterator[tuple[str, str]]:
    if STUDY in files and _sha256(files[STUDY]) != card.study:
        yield STUDY, "not the study that the card names"
    if results is not None and results.study.hash != card.study:
        yield RESULTS, "results of another study than the card's"
    if arrays is not None and digest(arrays) != card.arrays:
        yield MODEL, "not the arrays that the card names"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
