"""A study's model and its arrays: built alike everywhere, read and filled by name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.models import encoders, fusion, heads, systems  # noqa: F401 - they register themselves
from fl_shared.models.registry import SYSTEMS
from fl_shared.models.systems.attention import MultimodalModel
from fl_shared.study import PARTS, Study

EMBEDDING_BOUND = 0.02 * math.sqrt(3)  # standard deviation 0.02, as BERT's


def build_model(study: Study, *, weights: Mapping[str, Path] | None = None) -> MultimodalModel:
    """The initial model: the same study gives the same bits in every process and on every machine.

    Args:
        study: the plan; ``study.seed`` fixes the initial weights.
        weights: name -> local directory of the pretrained weights that the study names.

    Raises:
        ConsiliumError: an unknown name (exit code 10), or pretrained weights refused (exit code 11).
    """
    _check_names(study)
    with torch.random.fork_rng(devices=[]):  # the constructors' own draws are replaced below
        model = SYSTEMS.get(study.model.system, key="model.system").build(study, weights or {})
    given = tuple(f"encoders.{m}" for m, plan in study.modalities.items() if plan.weights is not None)
    _initialise(model, seed=study.seed, given=given)
    return model


def groups(model: nn.Module) -> dict[str, list[str]]:
    """Parameter group (``encoders.ecg``, ``adapters.ecg``, ``fusion``, ``heads``) -> names of its arrays."""
    found: dict[str, list[str]] = {}
    for name in model.state_dict():
        part, child, *_ = name.split(".")
        group = f"{part}.{child}" if part in PARTS[:2] else part
        found.setdefault(group, []).append(name)
    return found


def select(model: nn.Module, prefixes: Iterable[str]) -> dict[str, NDArray[np.generic]]:
    """Copies of the arrays whose name is one of the prefixes or stands under one (``"fusion"``, ``"encoders.ecg"``)."""
    wanted = tuple(prefixes)
    return {
        name: tensor.detach().cpu().numpy().copy()
        for name, tensor in model.state_dict().items()
        if _under(name, wanted)
    }


def load(model: nn.Module, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Fill the named parameters and buffers; all others stay.

    Raises:
        ValueError: a name, shape or dtype is not the model's; nothing was filled.
    """
    state = model.state_dict()
    wrong = [
        f"{name} {array.dtype}{array.shape}"
        for name, array in arrays.items()
        if name not in state
        or state[name].shape != array.shape
        or str(state[name].dtype).removeprefix("torch.") != str(array.dtype)
    ]
    if wrong:
        raise ValueError(f"{len(wrong)} arrays do not fit the model: {', '.join(wrong[:5])}")
    with torch.no_grad():
        for name, array in arrays.items():
            state[name].copy_(torch.from_numpy(np.array(array)))


def _under(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == p or name.startswith(f"{p}.") for p in prefixes)


def _initialise(model: nn.Module, *, seed: int, given: tuple[str, ...]) -> None:
    """Draw every tensor by its name: norm scales 1, biases 0, linear maps of variance 1/n and convolutions
    of variance 2/n, n inputs each (LeCun et al. 1998, section 4.6; He et al. 2015, eq. 10).

    torch's own draws differ in the last bit between processors, and a site whose initial model differs is refused.
    These are a 24-bit integer times one number: exact everywhere, and untouched by what else the model holds.
    """
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}"
            if _under(name, given):
                continue
            if parameter.dim() < 2:
                nn.init.constant_(parameter, 0.0 if leaf == "bias" else 1.0)
                continue
            bound = EMBEDDING_BOUND if isinstance(module, nn.Embedding) else 1 / math.sqrt(parameter[0].numel())
            words = np.frombuffer(hashlib.sha256(f"{seed}\0{name}".encode()).digest(), dtype="<u4")
            unit = np.random.Generator(np.random.PCG64(words)).random(parameter.shape, dtype=np.float32)
            with torch.no_grad():
                parameter.copy_(torch.from_numpy((2 * unit - 1) * np.float32(bound)))


def _check_names(study: Study) -> None:
    """Names become attributes of a ModuleDict: those of its methods are taken."""
    named = [("modalities", n) for n in study.modalities] + [("tasks", n) for n in study.tasks]
    faults = [
        Fault(file="study.toml", key=f"{key}.{name}", problem="this name is reserved", mend="Choose another name.")
        for key, name in named
        if hasattr(nn.ModuleDict(), name)
    ]
    if faults:
        raise ConsiliumError("the model cannot be built", code=ExitCode.STUDY, faults=faults)
