"""What a system is: parts by name, sizes, training phases. No torch here: the coordinator reads these too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

OBJECTIVES = ("tasks", "segmentation", "unimodal", "masked")
ALONE = OBJECTIVES[1:]  # under which no modality sees another
CHOOSE = "choose"  # an objective that takes no steps: what the sites found is averaged
EVERYTHING = ("encoders", "adapters", "fusion", "heads")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Part of a system's training; a study gives it rounds.

    Attributes:
        name: in the study and in results.
        share: of the study's rounds, relative to the other phases.
        does: what it trains and why, in one sentence with its source.
        objective: ``tasks``, ``segmentation``, or the part of the model's auxiliary losses that is trained.
        trains: prefixes of array names that change; those of them that are shared are what a site releases.
        patients: all training patients, the fifth kept for stacking, or the others.
        learning_rate: where it cannot be the study's.
    """

    name: str
    share: float
    does: str
    objective: str = "tasks"
    trains: tuple[str, ...] = EVERYTHING
    patients: Literal["all", "fit", "stack"] = "all"
    learning_rate: float | None = None


@dataclass(frozen=True, kw_only=True)
class Outline:
    """The part of a study that its phases depend on: raw, perhaps not yet validated.

    kinds: modality -> kind; weights: modalities with pretrained weights; tasks: task -> type; model: ``[model]``.
    """

    kinds: Mapping[str, str]
    weights: frozenset[str]
    tasks: Mapping[str, str]
    model: Mapping[str, Any]

    def encoders(self, *, without: tuple[str, ...] = ()) -> tuple[str, ...]:
        """Groups of the encoders, but for some modalities."""
        return tuple(f"encoders.{name}" for name in self.kinds if name not in without)

    def heads(self) -> tuple[str, ...]:
        """Groups of the tasks' heads, without those of single modalities (`lone_heads`)."""
        return tuple(f"heads.{task}" for task in self.tasks)

    def lone_heads(self) -> tuple[str, ...]:
        """Groups of the heads that objective 'unimodal' trains: one a task and modality."""
        tasks = [task for task, kind in self.tasks.items() if kind != "segmentation"]
        return tuple(f"heads.{task}@{name}" for task in tasks for name in self.kinds)


def one_phase(outline: Outline) -> tuple[Phase, ...]:
    """Everything together, end to end."""
    return (Phase(name="training", share=1.0, does="Encoders, fusion and heads together, on the study's tasks."),)


def alone_then_together(outline: Outline) -> tuple[Phase, ...]:
    """Each encoder with heads of its own, then everything from there: MedFuse (Hayat et al. 2022) and MedM2T."""
    alone = Phase(
        name="unimodal",
        share=0.4,
        does="Each encoder with heads of its own, on the patients who have the modality.",
        objective="unimodal",
        trains=("encoders", "adapters", *outline.lone_heads()),
    )
    together = Phase(
        name="fusion",
        share=0.6,
        does="Everything together from the pretrained encoders, nothing frozen.",
        trains=("encoders", "adapters", "fusion", *outline.heads()),
    )
    return alone, together


def never(study: Any) -> str:
    """Nothing speaks against privacy."""
    return ""


@dataclass(frozen=True, kw_only=True)
class System:
    """A named whole: which encoder reads each kind, which fusion joins them, in which phases it is trained.

    Attributes:
        name: in ``[model] system``.
        title: for people.
        source: paper and section.
        kinds: modalities of the paper, by kind; others are allowed.
        tasks: outcomes of the paper; others are allowed.
        fusions: its fusions, the default first.
        encoders: modality kind -> encoder, where it is not the usual one.
        small: ``[model]`` of the preset for CPUs and small cohorts.
        paper: ``[model]`` of the published sizes.
        phases: outline of a study -> phases, in order.
        objectives: fusion -> what it can be trained for besides `OBJECTIVES`.
        refuses: study -> why it cannot be trained with patient-level privacy ("" when it can).
    """

    name: str
    title: str
    source: str
    kinds: tuple[str, ...]
    tasks: tuple[str, ...]
    fusions: tuple[str, ...]
    small: Mapping[str, Any]
    paper: Mapping[str, Any]
    encoders: Mapping[str, str] = field(default_factory=dict)
    phases: Callable[[Outline], tuple[Phase, ...]] = one_phase
    objectives: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    refuses: Callable[[Any], str] = never
