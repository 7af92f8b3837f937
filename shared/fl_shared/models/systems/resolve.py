"""Fills a study with what its system leaves open: sizes, encoders, phases. Nothing that is written is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fl_shared.models.systems.attention import ATTENTION
from fl_shared.models.systems.baselines import BASELINES
from fl_shared.models.systems.lemof import LEMOF
from fl_shared.models.systems.m_prtm import M_PRTM
from fl_shared.models.systems.medfuse import MEDFUSE
from fl_shared.models.systems.medm2t import MEDM2T
from fl_shared.models.systems.system import Outline, Phase, System
from fl_shared.models.systems.tte_alignment import TTE_ALIGNMENT

SYSTEMS: Mapping[str, System] = {
    system.name: system for system in (ATTENTION, M_PRTM, MEDM2T, TTE_ALIGNMENT, MEDFUSE, LEMOF, BASELINES)
}
MOST_ROUNDS = 10_000  # of a study; more is left for validation to refuse
USUAL_ENCODERS: Mapping[str, str] = {
    "cine": "cine_cnn",
    "embedding": "embedding",
    "events": "events_cnn",
    "image": "resnet34",
    "table": "ehr_mlp",
    "text": "text_bert",
    "waveform": "ecg_resnet",
}


def resolved(data: Any) -> Any:
    """A raw study with every open choice of its system filled in; what is malformed is left for validation to name.

    Modalities come by name, as in `Study.canonical`, which sites read: the first is the same one everywhere.
    """
    if not isinstance(data, Mapping):
        return data
    parts = {key: data.get(key) for key in ("modalities", "training", "tasks")} | {"model": data.get("model", {})}
    tables = {key: part for key, part in parts.items() if isinstance(part, Mapping)}
    if len(tables) < len(parts):
        return data
    model, training = tables["model"], tables["training"]
    system = SYSTEMS.get(str(model.get("system", ATTENTION.name)), ATTENTION)
    sizes = system.paper if model.get("preset") == "paper" else system.small
    filled = {"fusion": system.fusions[0], **sizes, **model}
    named = {name: _with_encoder(plan, system) for name, plan in sorted(tables["modalities"].items())}
    return {
        **data,
        "model": filled,
        "modalities": named,
        "training": {
            "phases": _phases(system.phases(_outline(named, tables["tasks"], filled)), training.get("rounds")),
            **training,
        },
    }


def outline(study: Any) -> Outline:
    """The outline of a (validated) study."""
    body = study.model_dump(mode="json", exclude_none=True)
    return _outline(body["modalities"], body["tasks"], body["model"])


def opened(data: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `resolved`: a study without what its system would fill in alike, as a person would write it."""
    bare = {
        **data,
        "model": {key: data["model"][key] for key in ("system", "preset") if key in data["model"]},
        "modalities": {
            name: {key: value for key, value in plan.items() if key != "encoder"}
            for name, plan in data["modalities"].items()
        },
        "training": {key: value for key, value in data["training"].items() if key != "phases"},
    }
    # phases depend on the rest of the model, so that comes first
    for part in ("modalities", "model", "training"):
        filled = resolved(bare)[part]
        for key, value in data[part].items():
            if _said(filled.get(key)) != _said(value):
                bare[part] = {**bare[part], key: value}
    return bare


def _said(value: Any) -> Any:
    """Without the keys of tables that say nothing."""
    if isinstance(value, Mapping):
        return {key: _said(inner) for key, inner in value.items() if inner is not None}
    return [_said(inner) for inner in value] if isinstance(value, list | tuple) else value


def _with_encoder(plan: Any, system: System) -> Any:
    if not isinstance(plan, Mapping) or plan.get("encoder") is not None:
        return plan
    kind = str(plan.get("kind"))
    encoder = system.encoders.get(kind, USUAL_ENCODERS.get(kind))
    return plan if encoder is None else {**plan, "encoder": encoder}


def _outline(modalities: Mapping[str, Any], tasks: Mapping[str, Any], model: dict[str, Any]) -> Outline:
    plans = {str(name): plan if isinstance(plan, Mapping) else {} for name, plan in modalities.items()}
    return Outline(
        kinds={name: str(plan.get("kind")) for name, plan in plans.items()},
        weights=frozenset(name for name, plan in plans.items() if plan.get("weights") is not None),
        tasks={str(name): str(plan.get("type")) for name, plan in tasks.items() if isinstance(plan, Mapping)},
        model=model | {"levels": levels if isinstance(levels := model.get("levels"), Mapping) else {}},
    )


def _phases(phases: Sequence[Phase], rounds: Any) -> list[dict[str, Any]]:
    """Each phase with its rounds: at least one, the rest by share (largest remainder)."""
    total = rounds if isinstance(rounds, int) and rounds <= MOST_ROUNDS else len(phases)
    free = max(total - len(phases), 0)
    exact = [free * phase.share / sum(p.share for p in phases) for phase in phases]
    given = [int(part) for part in exact]
    by_remainder = sorted(range(len(phases)), key=lambda i: (given[i] - exact[i], i))
    for i in by_remainder[: free - sum(given)]:
        given[i] += 1
    return [
        {
            "name": phase.name,
            "rounds": 1 + extra,
            "objective": phase.objective,
            "trains": list(phase.trains),
            "patients": phase.patients,
            **({} if phase.learning_rate is None else {"learning_rate": phase.learning_rate}),
        }
        for phase, extra in zip(phases, given, strict=True)
    ]
