"""Pretrained encoder weights: local directories with a ``model.safetensors`` of the digest that the study names."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.study import ModalityPlan

FILE = "model.safetensors"


def refused(directory: Path, problem: str, mend: str) -> ConsiliumError:
    """The error for weights that cannot be used (exit code 11)."""
    fault = Fault(file="site.toml", key="weights", value=str(directory), problem=problem, mend=mend)
    return ConsiliumError("pretrained weights refused", code=ExitCode.SITE, faults=[fault])


def find(plan: ModalityPlan, weights: Mapping[str, Path]) -> Path | None:
    """The directory of a modality's weights, or None if the study names none.

    Args:
        plan: the modality; its ``weights_sha256`` is the SHA-256 of ``model.safetensors``.
        weights: name -> directory, as in ``[weights]`` of ``site.toml``.

    Raises:
        ConsiliumError: not given here, no such file, or another digest (exit code 11).
    """
    if plan.weights is None:
        return None
    if plan.weights not in weights:
        raise refused(Path(plan.weights), "the study needs these weights", f"Add {plan.weights} = 'DIRECTORY'.")
    directory = weights[plan.weights]
    file = directory / FILE
    if not file.is_file():
        raise refused(directory, f"there is no {FILE}", "Save the model as safetensors; pickled weights are not read.")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != plan.weights_sha256:
        problem = f"{FILE} has SHA-256 {found}, the study names {plan.weights_sha256}"
        raise refused(directory, problem, "Fetch the weights that the study names.")
    return directory


def load_into(module: nn.Module, directory: Path) -> None:
    """Fill a module from ``model.safetensors``; names and shapes must be the module's own.

    Raises:
        ConsiliumError: they are not (exit code 11).
    """
    try:
        module.load_state_dict(load_file(directory / FILE), strict=True)
    except (RuntimeError, SafetensorError) as error:
        raise refused(directory, f"does not fit: {error}", "Give weights made by this encoder.") from error
