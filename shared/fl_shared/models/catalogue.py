"""What can be trained: every system, encoder, fusion and head, with sizes and abilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from fl_shared.models.compose import compose
from fl_shared.models.interface import FusionSpec
from fl_shared.models.registry import ENCODERS, FUSIONS, HEADS
from fl_shared.models.systems import SYSTEMS, System, outline
from fl_shared.study import ModalityPlan, ModelPlan, Study

PRESETS = ("small", "paper")
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
EXAMPLES: Mapping[str, ModalityPlan] = {
    "cine": ModalityPlan(kind="cine", frames=16, size=224),
    "embedding": ModalityPlan(kind="embedding", features=1024, vectors=16),
    "events": ModalityPlan(kind="events", fields=tuple(f"f{k}" for k in range(38)), hours=48.0, bins=48),
    "image": ModalityPlan(kind="image", size=224),
    "table": ModalityPlan(kind="table", fields=tuple(f"f{k}" for k in range(20))),
    "text": ModalityPlan(kind="text", max_tokens=512),
    "waveform": ModalityPlan(kind="waveform", leads=LEADS, rate=128.0, seconds=5.0),
}
"""What an encoder reads when its parameters are counted: 12 leads x 640, 48 bins of 38 fields, 20 fields, 224 x 224."""


def catalogue() -> dict[str, list[dict[str, Any]]]:
    """``systems``, ``encoders``, ``fusions`` and ``heads``: JSON-ready rows.

    Parameters are counted for `EXAMPLES`, of a fusion for two modalities and one binary task.
    """
    return {
        "systems": [_system(system) for system in SYSTEMS.values()],
        "encoders": list(_encoders()),
        "fusions": list(_fusions()),
        "heads": [{"name": e.name, "task": e.kind, "source": e.source, "dp": e.dp} for e in HEADS],
    }


def example_study(system: System, preset: str, *, fusion: str | None = None) -> Study:
    """A study of a system over the modalities of its paper (`EXAMPLES`), with one binary task, and masks for a cine."""
    drawn = {"structures": {"type": "segmentation", "labels": ["structure"], "modality": "cine"}}
    return Study.model_validate(
        {
            "schema": 1,
            "name": "example",
            "seed": 0,
            "sites": {"site": {"role": "train", "patients": 100}},
            "tasks": {"outcome": {"type": "binary"}, **(drawn if "cine" in system.kinds else {})},
            "modalities": {kind: EXAMPLES[kind].model_dump() for kind in system.kinds},
            "model": {"system": system.name, "preset": preset} | ({} if fusion is None else {"fusion": fusion}),
            "training": {"rounds": 10, "steps": 1, "batch": 10},
            "privacy": {"mode": "none"},
            "rounds": {"quorum": 1},
            "evaluation": {"salt": "saltsalt"},
        }
    )


def _system(system: System) -> dict[str, Any]:
    studies = {preset: example_study(system, preset) for preset in PRESETS}
    each = {fusion: example_study(system, "small", fusion=fusion) for fusion in system.fusions}
    refused = {fusion: system.refuses(study) for fusion, study in each.items()}
    phases = {fusion: _phases(system, study) for fusion, study in each.items()}
    usual = phases[system.fusions[0]]
    return {
        "name": system.name,
        "title": system.title,
        "source": system.source,
        "modalities": list(system.kinds),
        "tasks": list(system.tasks),
        "fusions": list(system.fusions),
        "encoders": {name: plan.encoder for name, plan in studies["small"].modalities.items()},
        "phases": usual,
        "other_phases": {fusion: own for fusion, own in phases.items() if own != usual},
        "not_private": {fusion: why for fusion, why in refused.items() if why},
        "parameters": {preset: _parameters(partial(compose, study, {})) for preset, study in studies.items()},
    }


def _phases(system: System, study: Study) -> list[dict[str, Any]]:
    return [
        {"name": phase.name, "trains": list(phase.trains), "patients": phase.patients, "does": phase.does}
        for phase in system.phases(outline(study))
    ]


def _encoders() -> Iterator[dict[str, Any]]:
    for entry in ENCODERS:
        build = partial(_encoder, entry.build, EXAMPLES[entry.kind])
        yield {
            "name": entry.name,
            "modality": entry.kind,
            "source": entry.source,
            "dp": entry.dp,
            "parameters": _counted(build, system=SYSTEMS["attention"]),
        }


def _encoder(build: Callable[..., nn.Module], plan: ModalityPlan, model: ModelPlan) -> nn.Module:
    return build(plan, model, None)


def _fusions() -> Iterator[dict[str, Any]]:
    for entry in FUSIONS:
        systems = [system for system in SYSTEMS.values() if entry.name in system.fusions]
        yield {
            "name": entry.name,
            "systems": [system.name for system in systems],
            "source": entry.source,
            "dp": entry.dp,
            "missing": "native" if entry.native_missing else "learned vector",
            "parameters": _counted(partial(_fusion, entry.build), system=systems[0]),
        }


def _fusion(build: Callable[[FusionSpec], nn.Module], model: ModelPlan) -> nn.Module:
    return build(_spec(model))


def _spec(model: ModelPlan) -> FusionSpec:
    two = ("a", "b")
    return FusionSpec(
        modalities=two,
        widths=dict.fromkeys(two, model.width),
        levels=dict.fromkeys(two, (64, 64, 128)),
        tasks={"task": 1},
        model=model,
        kinds={"a": "waveform", "b": "table"},
        own=dict.fromkeys(two, model.width),
    )


def _counted(build: Callable[[ModelPlan], nn.Module], *, system: System) -> dict[str, int]:
    """Parameters of each preset."""
    return {preset: _parameters(partial(build, example_study(system, preset).model)) for preset in PRESETS}


def _parameters(build: Callable[[], nn.Module]) -> int:
    """How many there are; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in build().parameters())
