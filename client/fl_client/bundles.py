"""Writing encoder bundles: whole or not at all, and never over anything else."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import safetensors.numpy

from fl_client.files import write_private
from fl_shared.bundle import CONFIG, DESCRIPTION, WEIGHTS, Bundle
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.weights import directory_digest
from fl_shared.wire import Arrays


def write_bundle(
    folder: Path, bundle: Bundle, model: Arrays, *, modality: str, source: Path | None
) -> tuple[Path, str]:
    """Write one encoder of a model; ``source`` is the directory that it started from (a BERT keeps its tokeniser).

    Returns:
        The folder, and its digest.

    Raises:
        ConsiliumError: it cannot be written (exit code 1); a bundle that was there is still there.
    """
    bert = source is not None and (source / CONFIG).exists()
    prefix = f"encoders.{modality}.bert." if bert else f"encoders.{modality}."
    arrays = {name.removeprefix(prefix): array for name, array in model.items() if name.startswith(prefix)}
    try:
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as scratch:
            part = Path(scratch) / folder.name
            if source is not None and bert:
                shutil.copytree(source, part)
            part.mkdir(exist_ok=True)
            write_private(part / WEIGHTS, safetensors.numpy.save(arrays))
            write_private(part / DESCRIPTION, bundle.model_dump_json(by_alias=True, indent=1).encode())
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
    except OSError as error:
        mend = "Mend this and run the same command again: the finished rounds are kept."
        message = f"{folder}: the bundle cannot be written: {error}. {mend}"
        raise ConsiliumError(message, code=ExitCode.FAILED) from error
    return folder, directory_digest(folder)


def check_place(out: Path, modalities: tuple[str, ...]) -> None:
    """Before hours of training: bundles can be written to ``out``, and nothing else stands in their place.

    Raises:
        ConsiliumError: they cannot, or something does (exit code 2).
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        mend = "Give --out a folder that you may write to."
        raise ConsiliumError(f"{out}: bundles cannot be written: {error}. {mend}", code=ExitCode.USAGE) from error
    taken = [out / name for name in modalities if (out / name).exists() and not (out / name / DESCRIPTION).is_file()]
    if taken:
        mend = "Give --out another folder."
        faults = [
            Fault(file=str(path), key="--out", problem="no bundle, but it stands here", mend=mend) for path in taken
        ]
        raise ConsiliumError("bundles would replace something else", code=ExitCode.USAGE, faults=faults)
