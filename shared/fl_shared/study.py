"""The study: the coordinator's plan, typed, validated and identified by a hash.

A site takes part only in studies whose `Study.identity` it approved, so everything that can change what a site
computes or releases stands in this file. Times are seconds, rates Hz, counts patients.
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from fl_shared import concepts, toml
from fl_shared.errors import ExitCode
from fl_shared.toml import Name, Section

SCHEMA = 1
Kind = Literal["cine", "image", "waveform", "events", "table", "text", "embedding"]
TaskType = Literal["binary", "multilabel", "multiclass", "regression", "survival"]
PARTS = ("encoders", "adapters", "fusion", "heads")


class SitePlan(Section):
    """A hospital's part: its role and its declared number of patients (never the true count: that would leak)."""

    role: Literal["train", "external"]
    patients: int = Field(default=0, ge=0, description="declared training patients: weight, cap and sampling rate")


class TaskPlan(Section):
    """An outcome to predict."""

    type: TaskType
    labels: tuple[str, ...] = ()
    headline: tuple[str, ...] = Field(default=(), description="labels of the headline mean; all when empty")

    @model_validator(mode="after")
    def _labels_fit_type(self) -> Self:
        several = self.type in ("multilabel", "multiclass")
        if several and len(self.labels) < 2:
            raise ValueError(f"a {self.type} task needs at least two labels. List them in 'labels'.")
        if not several and self.labels:
            raise ValueError(f"a {self.type} task has no labels. Remove 'labels' or use type = 'multilabel'.")
        if unknown := set(self.headline) - set(self.labels):
            raise ValueError(f"headline names unknown labels {sorted(unknown)}. Use names from 'labels'.")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Columns of the target: labels; ``time`` (days) and ``event``; otherwise the single ``""``.

        The target of a multiclass task is one column that holds the number of its label.
        """
        if self.type == "survival":
            return ("time", "event")
        return self.labels if self.type == "multilabel" else ("",)


class ModalityPlan(Section):
    """An input: its kind, the encoder that reads it and its fixed grid."""

    kind: Kind
    encoder: Name | None = Field(default=None, description="registry name; the kind's default when absent")
    leaky: bool = Field(default=False, description="states the diagnosis: kept out of headline results")
    dropout: float | None = Field(
        default=None, ge=0, lt=1, description="share of training rows that hide it; model.modality_dropout when absent"
    )
    leads: tuple[str, ...] = ()
    rate: float | None = Field(default=None, gt=0, le=1000, description="Hz after resampling")
    seconds: float | None = Field(default=None, gt=0, le=60)
    fields: tuple[Name, ...] = Field(default=(), description="concepts of a table or of events, in order")
    hours: float | None = Field(default=None, gt=0, le=24 * 366 * 10, description="events: length of the window")
    bins: int = Field(default=48, ge=1, le=4096, description="events: equal parts of the window")
    gap_hours: float = Field(default=0.0, ge=0, description="events: hours between the window's end and the index time")
    frames: int = Field(default=16, ge=2, le=128, description="cine: phases of one heart beat")
    slices: int = Field(default=1, ge=1, le=32, description="cine: slices from base to apex, evenly spread")
    size: int = Field(default=64, ge=16, le=1024, description="cine, image: pixels in height and width")
    field_of_view: float | None = Field(
        default=None, gt=0, le=1000, description="mm about the centre (cine, image); the whole image when absent"
    )
    features: int | None = Field(default=None, ge=1, le=65536, description="embedding: length of a vector")
    vectors: int = Field(default=1, ge=1, le=4096, description="embedding: most vectors a sample")
    max_tokens: int = Field(default=256, ge=8, le=8192, description="text: of a whole note")
    window: int = Field(default=512, ge=8, le=512, description="text: tokens that attend to one another")
    weights: str | None = Field(default=None, description="name of a local pretrained directory (site.toml [weights])")
    weights_sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _kind_has_its_keys(self) -> Self:
        if self.kind == "waveform" and not (self.leads and self.rate and self.seconds):
            raise ValueError("a waveform needs 'leads', 'rate' (Hz) and 'seconds'. Add them.")
        if self.kind in ("table", "events") and not self.fields:
            raise ValueError(f"kind '{self.kind}' needs 'fields'. List the concepts, e.g. fields = ['age', 'sex'].")
        if self.kind == "events" and self.hours is None:
            raise ValueError("events need 'hours', the length of their window. Add e.g. hours = 48.0.")
        if self.kind == "embedding" and self.features is None:
            raise ValueError("an embedding needs 'features', the length of its vectors. Add it.")
        if (self.weights is None) != (self.weights_sha256 is None):
            raise ValueError("'weights' and 'weights_sha256' belong together. Give both or neither.")
        return self


class ModelPlan(Section):
    """The system and its sizes."""

    system: Name = "attention"
    width: int = Field(default=64, ge=8, le=1024, description="d of tokens and pooled vectors")
    depth: int = Field(default=1, ge=1, le=12, description="fusion layers")
    heads: int = Field(default=4, ge=1, le=32)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    modality_dropout: float = Field(default=0.2, ge=0, lt=1)

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}. Change one.")
        return self


class TrainingPlan(Section):
    """How a site trains within a round and what it shares."""

    rounds: int = Field(ge=1, le=10_000)
    steps: int = Field(ge=1, le=100_000, description="optimiser steps a site and round")
    batch: int = Field(ge=1, le=100_000, description="expected patients a step")
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    encoders: Literal["frozen", "local", "shared"] = "local"
    final_encoders: Literal["mean", "initial"] = Field(
        default="mean", description="what external sites run when encoders are local"
    )
    strategy: Literal["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedmedian", "fedtrimmedavg"] = "fedavg"


class PrivacyPlan(Section):
    """What the releases of a site promise to one patient; ``none`` must be written out."""

    mode: Literal["patient", "none"]
    epsilon: float | None = Field(default=None, gt=0, le=100)
    delta: float = Field(default=1e-5, gt=0, lt=1e-2)
    clip: float = Field(default=1.0, gt=0, le=1e4, description="L2 bound of one patient's gradient")

    @model_validator(mode="after")
    def _patient_needs_epsilon(self) -> Self:
        if self.mode == "patient" and self.epsilon is None:
            raise ValueError("mode 'patient' needs 'epsilon'. Add e.g. epsilon = 8.0.")
        if self.mode == "none" and self.epsilon is not None:
            raise ValueError("mode 'none' has no epsilon. Remove 'epsilon' or set mode = 'patient'.")
        return self


class RoundsPlan(Section):
    """When a round counts."""

    quorum: int = Field(ge=1, description="training sites whose updates must be accepted")
    deadline: float = Field(default=600.0, gt=0, description="seconds a phase waits for replies")
    max_norm: float = Field(default=1e3, gt=0, description="L2 bound of an accepted update (difference to the base)")


class EvaluationPlan(Section):
    """What is held out and how it is judged."""

    holdout: float = Field(default=0.2, gt=0, lt=1, description="share of patients never trained on")
    salt: str = Field(min_length=8, description="fixes the held-out patients")
    bootstrap: int = Field(default=1000, ge=100, le=100_000)
    min_patients: int = Field(default=10, ge=2, description="smaller cohorts release no metric")


class Study(Section):
    """A study as written in ``study.toml``."""

    schema_version: Literal[1] = Field(alias="schema")
    name: Name
    seed: int = Field(ge=0, lt=2**31)
    synthetic: bool = Field(default=False, description="the data are synthetic: said wherever results appear")
    sites: dict[Name, SitePlan] = Field(min_length=1)
    tasks: dict[Name, TaskPlan] = Field(min_length=1)
    modalities: dict[Name, ModalityPlan] = Field(min_length=1)
    model: ModelPlan = ModelPlan()
    training: TrainingPlan
    privacy: PrivacyPlan
    rounds: RoundsPlan
    evaluation: EvaluationPlan

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if not self.train_sites:
            raise ValueError("no site has role 'train'. Give at least one.")
        if self.rounds.quorum > len(self.train_sites):
            raise ValueError(
                f"rounds.quorum {self.rounds.quorum} exceeds the {len(self.train_sites)} training sites. Lower it."
            )
        if undeclared := [n for n in self.train_sites if self.sites[n].patients == 0]:
            raise ValueError(f"training sites {undeclared} declare no patients. Add 'patients = N' to each.")
        if self.privacy.mode == "patient" and self.training.strategy == "fedmedian":
            raise ValueError(
                "fedmedian is not the mean that the privacy accounting assumes. Use fedavg, or privacy mode 'none'."
            )
        return self

    @property
    def train_sites(self) -> tuple[str, ...]:
        """Names of the training sites in the order of every sum (sorted)."""
        return tuple(sorted(n for n, s in self.sites.items() if s.role == "train"))

    @property
    def external_sites(self) -> tuple[str, ...]:
        """Names of the sites that only judge (sorted)."""
        return tuple(sorted(n for n, s in self.sites.items() if s.role == "external"))

    @property
    def shared_groups(self) -> tuple[str, ...]:
        """Prefixes of the parameter groups that leave a site every round."""
        if self.training.encoders == "shared":
            return PARTS
        # over frozen encoders the adapters are all that could drift apart between sites
        return ("adapters", "fusion", "heads") if self.training.encoders == "frozen" else ("fusion", "heads")

    def sampling_rate(self, site: str) -> float:
        """Poisson rate q of a site: expected patients a step over declared patients."""
        return min(1.0, self.training.batch / self.sites[site].patients)

    def canonical(self) -> str:
        """The resolved study as canonical JSON (sorted keys, defaults, package version, digest of the concept file)."""
        study = self.model_dump(mode="json", by_alias=True)
        body = {"package": version("consilium"), "concepts": concepts.digest(), "study": study}
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def identity(self) -> str:
        """SHA-256 of `canonical`: what a site approves."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def load_study(path: Path) -> Study:
    """Read ``study.toml``; every fault is reported at once (exit code 10)."""
    return toml.load(path, Study, code=ExitCode.STUDY)


def is_held_out(patient_id: str, *, site: str, plan: EvaluationPlan) -> bool:
    """Whether a patient is never trained on: a salted hash, so that it cannot depend on any outcome."""
    digest = hashlib.sha256(f"{plan.salt}\0{site}\0{patient_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < plan.holdout * 2**64
