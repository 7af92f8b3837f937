"""Pretrained encoders: local directories with a ``model.safetensors``, pinned by the study."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from fl_shared.bundle import read_bundle
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.study import ModalityPlan
from fl_shared.weights import verified_directory

Module = TypeVar("Module", bound=nn.Module)


def refused(directory: Path, problem: str, mend: str) -> ConsiliumError:
    """The error for weights that cannot be used (exit code 11)."""
    fault = Fault(file="site.toml", key="weights", value=str(directory), problem=problem, mend=mend)
    return ConsiliumError("pretrained weights refused", code=ExitCode.SITE, faults=[fault])


def find(plan: ModalityPlan, weights: Mapping[str, Path]) -> Path | None:
    """The verified directory of a modality's weights, or None if the study names none.

    Args:
        plan: the modality.
        weights: name -> directory, as in ``[weights]`` of ``site.toml``.

    Raises:
        ConsiliumError: not given here, or not what the study pinned (exit code 11).
    """
    if plan.weights is None or plan.weights_sha256 is None:
        return None
    if plan.weights not in weights:
        raise refused(Path(plan.weights), "the study needs these weights", f"Add {plan.weights} = 'DIRECTORY'.")
    directory = verified_directory(weights[plan.weights], name=plan.weights, sha256=plan.weights_sha256)
    bundle = read_bundle(directory)
    if bundle is not None and plan.provenance not in (None, bundle.provenance):
        problem = f"its provenance is '{bundle.provenance}', the study says '{plan.provenance}'"
        raise refused(directory, problem, "Correct the study.")
    if bundle is not None and bundle.encoder != plan.encoder:
        problem = f"holds the encoder '{bundle.encoder}', the study has '{plan.encoder}'"
        raise refused(directory, problem, "Name the bundle's encoder in the study.")
    return directory


def load_into(module: nn.Module, directory: Path) -> None:
    """Fill a module from ``model.safetensors``; names and shapes must be the module's own.

    Raises:
        ConsiliumError: they are not, or there is no such file (exit code 11).
    """
    mend = "Give weights made by this encoder at the study's sizes."
    try:
        arrays = load_file(directory / "model.safetensors")
    except (OSError, SafetensorError) as error:
        raise refused(directory, f"cannot be read: {error}", "Make them anew.") from error
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in arrays.items()}
    if wrong := sorted(name for name in {*wanted, *given} if wanted.get(name) != given.get(name)):
        first = f"{wrong[0]} is {given.get(wrong[0], 'absent')}, the study needs {wanted.get(wrong[0], 'none')}"
        bundle = read_bundle(directory)
        made = f"; made for {bundle.encoder} of width {bundle.model.width}, {bundle.model.preset}" if bundle else ""
        raise refused(directory, f"does not fit: {len(wrong)} arrays differ, {first}{made}", mend)
    module.load_state_dict(arrays, strict=True)


def loaded(module: Module, directory: Path | None) -> Module:
    """The module, filled by `load_into` where the study names weights for it."""
    if directory is not None:
        load_into(module, directory)
    return module
