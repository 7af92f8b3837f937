"""Composes the model of a study from the parts that it names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from fl_shared.models import parts  # noqa: F401 - they register themselves
from fl_shared.models.fusion.missing import MissingAdapter
from fl_shared.models.heads.trunk import TaskHead
from fl_shared.models.interface import Fusion, FusionSpec, StagedEncoder
from fl_shared.models.lora import LAYERS, add_lora
from fl_shared.models.masked import MaskedSeries
from fl_shared.models.model import MASKED, UNIMODAL, MultimodalModel
from fl_shared.models.registry import DECODERS, ENCODERS, FUSIONS, HEADS
from fl_shared.models.weights import find
from fl_shared.plans import SERIES
from fl_shared.study import Study, TaskPlan


def compose(study: Study, weights: Mapping[str, Path]) -> MultimodalModel:
    """Build a study's model from the parts that it names; weights: name in ``site.toml`` -> local directory.

    Raises:
        ConsiliumError: an unknown name (exit code 10), or pretrained weights refused (exit code 11).
    """
    encoders = {}
    for name, plan in study.modalities.items():
        entry = ENCODERS.get(plan.encoder or plan.kind, key=f"modalities.{name}.encoder", kind=plan.kind)
        encoders[name] = entry.build(plan, study.model, find(plan, weights))
    if study.training.encoders == "adapters":
        named = {name: str(plan.encoder) for name, plan in study.modalities.items()}
        # what cannot be adapted stays frozen, beside at least one encoder that can
        for name in [name for name, encoder in named.items() if encoder in LAYERS] or named:
            key = f"modalities.{name}.encoder"
            add_lora(encoders[name], name=named[name], key=key, rank=study.model.lora_rank)
    fused = {name: task for name, task in study.tasks.items() if task.modality is None}
    fusion, widths = _fusion(study, encoders, tasks=fused)
    features = None if fusion.predicts else fusion.out_features
    heads: dict[str, nn.Module] = {name: _head(study, name, features) for name in fused}
    objectives = {phase.objective for phase in study.training.phases}
    if UNIMODAL in objectives:
        heads |= {f"{name}@{m}": _head(study, name, width) for name in fused for m, width in widths.items()}
    if MASKED in objectives:
        series = {name: plan for name, plan in study.modalities.items() if plan.kind in SERIES}
        heads |= {f"masked@{m}": MaskedSeries(plan, width=encoders[m].width) for m, plan in series.items()}
    for name, task in study.tasks.items():
        if task.modality is not None:
            encoder = encoders[task.modality]
            decoder = DECODERS.get(encoder.decoder, key=f"tasks.{name}.modality")
            heads[name] = decoder.build(task, encoder, study.modalities[task.modality])
    return MultimodalModel(study, encoders=encoders, adapters=_adapters(encoders, widths), fusion=fusion, heads=heads)


def _head(study: Study, name: str, features: int | None) -> nn.Module:
    task = study.tasks[name]
    return HEADS.get(task.head, key=f"tasks.{name}.type").build(task, features, study.model)


def _start(study: Study, name: str) -> Tensor | None:
    """Where the logits of a task's untrained head stand, if not at 0."""
    return cast(TaskHead, _head(study, name, 1)).start


def _fusion(
    study: Study, encoders: Mapping[str, StagedEncoder], *, tasks: Mapping[str, TaskPlan]
) -> tuple[Fusion, dict[str, int]]:
    """The fusion, able to do without a modality, and the width at which it gets each."""
    entry = FUSIONS.get(study.model.fusion, key="model.fusion")
    widths = {name: study.model.width if entry.projects else encoder.width for name, encoder in encoders.items()}
    spec = FusionSpec(
        modalities=tuple(encoders),
        widths=widths,
        levels={name: encoder.stage_channels[-3:] for name, encoder in encoders.items()},
        tasks={name: task.outputs for name, task in tasks.items()},
        model=study.model,
        kinds={name: plan.kind for name, plan in study.modalities.items()},
        own={name: encoder.width for name, encoder in encoders.items()},
        starts={name: start for name in tasks if (start := _start(study, name)) is not None},
    )
    fusion = entry.build(spec)
    return fusion if fusion.native_missing else MissingAdapter(fusion, spec), widths


def _adapters(encoders: Mapping[str, StagedEncoder], widths: Mapping[str, int]) -> dict[str, nn.Module]:
    return {
        name: nn.Identity() if encoder.width == widths[name] else nn.Linear(encoder.width, widths[name])
        for name, encoder in encoders.items()
    }
