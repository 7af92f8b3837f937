"""A small study for every entry of the registries: what the acceptance tests iterate over."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from fl_shared.models.build import build_model
from fl_shared.models.model import MultimodalModel
from fl_shared.models.registry import DECODERS, ENCODERS, FUSIONS, HEADS
from fl_shared.models.systems import SYSTEMS
from fl_shared.study import PhasePlan, Study

KINDS: Mapping[str, dict[str, Any]] = {
    "cine": {"frames": 2, "slices": 2, "size": 32},
    "embedding": {"features": 6, "vectors": 3},
    "events": {"fields": ["sbp", "heart_rate"], "hours": 10, "bins": 12},
    "image": {"size": 32},
    "table": {"fields": ["age", "sex", "bmi", "ef"]},
    "text": {"max_tokens": 16},
    "waveform": {"leads": ["I", "II", "V1"], "rate": 100, "seconds": 1},
}
MIXED: Mapping[str, dict[str, Any]] = {
    "cine": {"encoder": "cine_cnn", "size": 16},
    "waveform": {"encoder": "ecg_resnet"},
    "table": {"encoder": "ehr_mlp"},
    "text": {"encoder": "text_bert"},
}
"""Modalities of a fusion under test: maps, series, fields and words, of different widths."""

LABELS = {"multilabel": 3, "multiclass": 3, "competing": 2, "segmentation": 2}
BINARY = {"death": {"type": "binary"}}
VARIANTS: Mapping[str, tuple[dict[str, Any], ...]] = {
    "level_guided": ({}, {"levels": {"cine": 0, "waveform": 1, "table": 2, "text": 1}}),
}
"""Options of [model] under which a fusion is tested too: with its levels fixed, LeMoF may be trained with privacy."""

QUIET = {"dropout": 0.0, "modality_dropout": 0.0}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A study that uses the entry under test.

    modalities, tasks, model, phases: of the study. learns: modalities that are there when it has to learn 32 rows.
    """

    name: str
    modalities: Mapping[str, Mapping[str, Any]]
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: BINARY)
    model: Mapping[str, Any] = field(default_factory=dict)
    phases: tuple[Mapping[str, Any], ...] = ()
    learns: tuple[str, ...] = ()

    def plan(self, *, mode: str = "none", **model: Any) -> Study:
        """The study; ``model`` goes before the case's own options."""
        phases = {"phases": [dict(phase) for phase in self.phases]} if self.phases else {}
        return Study.model_validate(
            {
                "schema": 1,
                "name": "small",
                "seed": 7,
                "sites": {"a": {"role": "train", "patients": 20}},
                "tasks": self.tasks,
                "modalities": self.modalities,
                "model": {"width": 16, "heads": 2, "depth": 2, **self.model, **model},
                "training": {"rounds": len(self.phases) or 10, "steps": 1, "batch": 4, **phases},
                "privacy": {"mode": mode, **({"epsilon": 8} if mode == "patient" else {})},
                "rounds": {"quorum": 1},
                "evaluation": {"salt": "saltsalt"},
            }
        )

    @cached_property
    def study(self) -> Study:
        """Without privacy."""
        return self.plan()

    @cached_property
    def dp(self) -> bool:
        """Whether all its entries claim exact gradients of single patients."""
        study = self.study
        entries = [ENCODERS.get(str(plan.encoder), key="") for plan in study.modalities.values()]
        heads = [HEADS.get(task.head, key="") for task in study.tasks.values() if task.modality is None]
        drawn = [task.modality for task in study.tasks.values() if task.modality is not None]
        decoders = [DECODERS.get(build_model(study).encoders[name].decoder, key="") for name in drawn]
        return all(entry.dp for entry in (*entries, *heads, *decoders, FUSIONS.get(study.model.fusion, key="")))

    def quiet(self, *, mode: str = "none") -> tuple[Study, MultimodalModel]:
        """The study and its model in float64, without any dropout."""
        study = self.plan(mode=mode, **QUIET)
        model = build_model(study).double()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # also where it is fixed
        return study, model


def cases() -> list[Case]:
    """Everything that is registered, each in a study of its own."""
    return [*encoder_cases(), *fusion_cases(), *head_cases(), *decoder_cases(), *system_cases()]


def encoder_cases() -> list[Case]:
    """Each encoder beside a table, in the baseline system."""
    return [
        Case(name=f"encoder {e.name}", modalities={"x": of(e.kind, e.name), "ehr": of("table")}, learns=("x",))
        for e in ENCODERS
    ]


def fusion_cases() -> list[Case]:
    """Each fusion in the systems that name it, over four modalities of different kinds."""
    tasks = {**BINARY, "mace": task_of("multilabel")}
    modalities = {kind: {**of(kind), **options} for kind, options in MIXED.items()}
    return [
        Case(
            name=f"fusion {entry.name} of {system.name} {' '.join(options)}".strip(),
            modalities=modalities,
            tasks=tasks,
            model={"system": system.name, "fusion": entry.name, **options},
            learns=() if options else tuple(modalities),
        )
        for entry in FUSIONS
        for system in SYSTEMS.values()
        if entry.name in system.fusions
        for options in VARIANTS.get(entry.name, ({},))
    ]


def head_cases() -> list[Case]:
    """Each head on a table."""
    modalities = {"ehr": of("table")}
    return [
        Case(name=f"head {e.name}", modalities=modalities, tasks={"outcome": task_of(e.kind)}, learns=("ehr",))
        for e in HEADS
    ]


def decoder_cases() -> list[Case]:
    """Each cine encoder with its decoder: the masks alone, then with another task."""
    phases = (
        {"name": "drawing", "rounds": 1, "objective": "segmentation", "trains": ["encoders.x", "heads.masks"]},
        {"name": "both", "rounds": 1},
    )
    return [
        Case(
            name=f"decoder of {e.name}",
            modalities={"x": of("cine", e.name), "ehr": of("table")},
            tasks={**BINARY, "masks": {**task_of("segmentation"), "modality": "x"}},
            phases=phases,
        )
        for e in ENCODERS
        if e.kind == "cine"
    ]


def system_cases() -> list[Case]:
    """Each system over the kinds of its paper, with its own encoders and phases; and pretraining without labels."""
    series = ("waveform", "events")
    parts = [f"{part}{name}" for name in series for part in ("encoders.", "heads.masked@")]
    unlabelled = Case(
        name="masked series",
        modalities={kind: of(kind) for kind in (*series, "table")},
        phases=(
            {"name": "hidden", "rounds": 1, "objective": "masked", "trains": parts},
            {"name": "labelled", "rounds": 1, "trains": ["encoders", "adapters", "fusion", "heads.death"]},
        ),
    )
    masks = {"masks": {**task_of("segmentation"), "modality": "cine"}}
    own = [
        Case(
            name=f"system {system.name}",
            modalities={kind: of(kind) for kind in system.kinds},
            tasks={**BINARY, **(masks if "cine" in system.kinds else {})},
            model={"system": system.name},
        )
        for system in SYSTEMS.values()
    ]
    return [unlabelled, *own]


def of(kind: str, encoder: str | None = None) -> dict[str, Any]:
    """A small modality; the system's encoder when none is named."""
    return {"kind": kind, **KINDS[kind], **({} if encoder is None else {"encoder": encoder})}


def task_of(head: str) -> dict[str, Any]:
    """A task whose head has this name."""
    kind, _, form = head.partition("_")
    labels = {"labels": [f"l{k}" for k in range(LABELS[kind])]} if kind in LABELS else {}
    timed = {"bins": 4} if kind in ("survival", "competing") else {}
    return {"type": kind, **labels, **timed, **({"survival_model": form} if form else {})}


def phases(study: Study) -> Iterator[tuple[int, PhasePlan]]:
    """Each phase with its first round."""
    first = 1
    for phase in study.training.phases:
        yield first, phase
        first += phase.rounds
