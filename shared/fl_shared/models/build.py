"""A study's model and its arrays: built alike everywhere, read and filled by name."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fl_shared.errors import ConsiliumError, ExitCode, Fault, nearest
from fl_shared.models.compose import compose
from fl_shared.models.lora import is_lora
from fl_shared.models.model import CHOOSE, MASKED, TASKS, MultimodalModel
from fl_shared.study import PARTS, Study

EMBEDDING_BOUND = 0.02 * math.sqrt(3)  # standard deviation 0.02, as BERT's


def build_model(study: Study, *, weights: Mapping[str, Path] | None = None) -> MultimodalModel:
    """The initial model: the same study gives the same bits in every process and on every machine.

    Args:
        study: the plan; ``study.seed`` fixes the initial weights.
        weights: name -> local directory of the pretrained weights that the study names.

    Raises:
        ConsiliumError: an unknown name, or a phase that trains nothing (exit code 10); pretrained weights refused (11).
    """
    _check_names(study)
    with torch.random.fork_rng(devices=[]):  # the constructors' own draws are replaced below
        model = compose(study, weights or {})
    _check_phases(study, model)
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


def select(model: nn.Module, chosen: Callable[[str], bool] = lambda name: True) -> dict[str, NDArray[np.generic]]:
    """Copies of the parameters and buffers whose name is chosen (all, by default)."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in model.state_dict().items() if chosen(name)}


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
    """Draw every tensor by its name: norm scales 1, biases 0, maps uniform within 1/sqrt(n) of 0, n inputs each.

    That is torch's default. A module's own ``initial`` (leaf -> constant) goes before.

    torch's own draws differ in the last bit between processors, and a site whose initial model differs is refused.
    These are a 24-bit integer times one number: exact everywhere, and untouched by what else the model holds.
    """
    for path, module in model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{leaf}"
            if _under(name, given) and not is_lora(name):
                continue
            if leaf in (constants := getattr(module, "initial", {})):
                nn.init.constant_(parameter, constants[leaf])
                continue
            if parameter.dim() < 2:
                nn.init.constant_(parameter, 0.0 if leaf == "bias" else 1.0)
                continue
            bound = EMBEDDING_BOUND if isinstance(module, nn.Embedding) else 1 / math.sqrt(parameter[0].numel())
            words = np.frombuffer(hashlib.sha256(f"{seed}\0{name}".encode()).digest(), dtype="<u4")
            unit = np.random.Generator(np.random.PCG64(words)).random(parameter.shape, dtype=np.float32)
            with torch.no_grad():
                parameter.copy_(torch.from_numpy((2 * unit - 1) * np.float32(bound)))


def _check_phases(study: Study, model: nn.Module) -> None:
    """Every phase trains something that exists, and no task is left with a head as it was drawn.

    Raises:
        ConsiliumError: one fault each (exit code 10).
    """
    paths = {name for name, _ in model.named_modules()} | set(model.state_dict())
    parameters = [name for name, _ in model.named_parameters()]
    phases, faults = study.training.phases, []
    for number, phase in enumerate(phases):
        key = f"training.phases.{number}.trains"
        for part in (part for part in phase.trains if part not in paths):
            mend = nearest(part, [p for p in paths if p.startswith(part.split(".")[0]) and p.count(".") == 1])
            faults.append(_fault(key, value=part, problem="the model has no such part", mend=mend))
        if phase.objective != CHOOSE and not any(study.trains_in(name, phase) for name in parameters):
            mend = "Train more, do not freeze it, or remove this phase."
            faults.append(_fault(key, value=", ".join(phase.trains), problem="nothing that has parameters", mend=mend))
    if any(phase.objective == TASKS for phase in phases):
        for task in study.tasks:
            head = [name for name in parameters if name.startswith(f"heads.{task}.")]
            if head and not any(study.trains_in(name, phase) for name in head for phase in phases):
                problem, mend = "no phase trains its head", f"Add 'heads.{task}' to the 'trains' of a phase."
                faults.append(_fault(f"tasks.{task}", value="", problem=problem, mend=mend))
    if faults:
        raise ConsiliumError("the model cannot be trained as the study says", code=ExitCode.STUDY, faults=faults)


def _fault(key: str, *, value: str, problem: str, mend: str) -> Fault:
    return Fault(file="study.toml", key=key, value=value, problem=problem, mend=mend)


def _check_names(study: Study) -> None:
    """Names become attributes of a ModuleDict: those of its methods are taken."""
    named = [("modalities", n) for n in study.modalities] + [("tasks", n) for n in study.tasks]
    taken = {name for _, name in named if hasattr(nn.ModuleDict(), name)} | {MASKED}  # heads are named masked@ecg too
    faults = [
        Fault(file="study.toml", key=f"{key}.{name}", problem="this name is reserved", mend="Choose another name.")
        for key, name in named
        if name in taken
    ]
    if faults:
        raise ConsiliumError("the model cannot be built", code=ExitCode.STUDY, faults=faults)
