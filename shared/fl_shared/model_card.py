"""The card of a finished model: what it is for, what it came from, what is promised of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from fl_shared import concepts
from fl_shared.plans import Provenance
from fl_shared.results import PrivacyResult, Results
from fl_shared.study import Identity, Study
from fl_shared.task import TaskType
from fl_shared.toml import Section
from fl_shared.wire import Arrays, digest

RESEARCH = "Research on {tasks} from {inputs}. No medical device: not for decisions about patients."
SYNTHETIC = "Trained on SYNTHETIC patients: for demonstrations alone."
UNITS = {"patient": "each training patient", "site": "each training hospital"}


class Requirement(Section):
    """One threshold of a study's ``[promotion]`` and its figure; ``met`` is null where there is none to judge by."""

    text: str
    value: float | None
    low: float | None = None
    high: float | None = None
    site: str = ""
    met: bool | None
    note: str = ""


class Start(Section):
    """Pretrained weights that an encoder started from. Whoever runs the model needs the same directory for a text."""

    weights: str
    sha256: str
    provenance: Provenance | None


class Card(Section):
    """``card.json`` of a model bundle.

    ``study`` is the identity of the study that trained it, ``arrays`` the `digest` of all arrays of the model.
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: str
    intended_use: str
    limits: tuple[str, ...] = ()
    synthetic: bool
    model: Literal["federated", "recalibrated"] = "federated"
    system: str
    tasks: dict[str, TaskType]
    modalities: dict[str, str] = Field(description="modality -> kind")
    training_sites: dict[str, int] = Field(description="site -> patients that it declared")
    external_sites: tuple[str, ...]
    privacy: PrivacyResult
    privacy_claim: str
    started_from: dict[str, Start] = Field(default={}, description="modality -> weights; all others were drawn")
    study: Identity
    package: str
    concepts: Identity
    round: int
    arrays: Identity
    requirements: tuple[Requirement, ...] = Field(default=(), description="thresholds that it was promoted by")


def trained_identity(written: Mapping[str, Any], *, package: str) -> tuple[str, str]:
    """(identity, canonical text) of a study as an earlier package version resolved it.

    `Study.identity` is that of today's package: options that were added since would change it.

    Args:
        written: the study as it was written then (JSON, all keys).
        package: version that wrote it.
    """
    body = {"package": package, "concepts": concepts.digest(), "study": written}
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest(), text


def describe(
    *,
    study: Study,
    results: Results,
    arrays: Arrays,
    round: int,
    model: Literal["federated", "recalibrated"] = "federated",
    requirements: Sequence[Requirement] = (),
) -> Card:
    """The card of a run's model."""
    inputs = ", ".join(study.modalities)
    use = RESEARCH.format(tasks=", ".join(study.tasks), inputs=inputs)
    return Card(
        name=study.name,
        intended_use=f"{SYNTHETIC} {use}" if study.synthetic else use,
        limits=results.notes,
        synthetic=study.synthetic,
        model=model,
        system=study.model.system,
        tasks={name: task.type for name, task in study.tasks.items()},
        modalities={name: plan.kind for name, plan in study.modalities.items()},
        training_sites={name: study.sites[name].patients for name in study.train_sites},
        external_sites=study.external_sites,
        privacy=results.privacy,
        privacy_claim=claim(results.privacy),
        started_from={
            name: Start(weights=plan.weights, sha256=plan.weights_sha256, provenance=plan.provenance)
            for name, plan in study.modalities.items()
            if plan.weights is not None and plan.weights_sha256 is not None
        },
        study=results.study.hash,
        package=results.study.package,
        concepts=concepts.digest(),
        round=round,
        arrays=digest(arrays),
        requirements=tuple(requirements),
    )


def claim(privacy: PrivacyResult) -> str:
    """What is promised to those whom the model was trained on, in a sentence."""
    if privacy.mode == "none":
        return "None: nothing bounds what the model tells of its training patients."
    spent = max(privacy.epsilon_spent.values(), default=privacy.epsilon_budget or 0.0)
    return (
        f"The model is (epsilon {spent:.3g}, delta {privacy.delta:g})-differentially private for "
        f"{UNITS[privacy.mode]}, as their hospitals reported (highest of all)."
    )
