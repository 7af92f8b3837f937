"""The sections of a study: sites, modalities, model, training, privacy, rounds, evaluation."""

from __future__ import annotations

import hashlib
from datetime import date
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from fl_shared.errors import nearest
from fl_shared.models.systems import MOST_ROUNDS, SYSTEMS
from fl_shared.toml import Name, Section

Kind = Literal["cine", "image", "waveform", "events", "table", "text", "embedding"]
Provenance = Literal["public", "disjoint", "dp", "local"]
"""Of pretrained weights: public data; other patients; these patients under privacy; these patients without it."""

Part = Annotated[str, StringConstraints(pattern=r"^(encoders|adapters|fusion|heads)(\.[a-z][a-z0-9_@]*)*$")]
PARTS = ("encoders", "adapters", "fusion", "heads")
Share = Annotated[float, Field(gt=0, le=1)]
Years = Annotated[int, Field(ge=1, le=120)]
SERIES = ("waveform", "events")  # kinds that masked modelling reads


class SitePlan(Section):
    """A hospital's part: its role and its declared number of patients (never the true count: that would leak)."""

    role: Literal["train", "external"]
    patients: int = Field(default=0, ge=0, description="declared training patients: weight, cap and sampling rate")
    judged: Literal["all", "held_out"] = Field(
        default="all", description="of an external site: all its patients, or those that it would hold out in training"
    )


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
    provenance: Provenance | None = Field(default=None, description="of the weights; a bundle's own must be the same")

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
    """The system and its sizes; what is left out comes from the system's preset (`fl_shared.models.systems`)."""

    system: Name = "attention"
    preset: Literal["small", "paper"] = Field(default="small", description="'paper': sizes as published")
    fusion: Name = Field(default="self_attention", description="the system's own when absent")
    width: int = Field(default=64, ge=8, le=2048, description="d of tokens and pooled vectors")
    depth: int = Field(default=1, ge=1, le=12, description="fusion layers")
    heads: int = Field(default=4, ge=1, le=64)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    modality_dropout: float = Field(default=0.2, ge=0, lt=1)
    head: Literal["linear", "mlp"] = Field(default="linear", description="what leads from the fused vector to logits")
    missing: Literal["learned", "zeros"] = Field(
        default="learned", description="what a fusion without native handling gets for an absent modality"
    )
    guide: Name | None = Field(
        default=None,
        description="co_attention: who asks; daft, hyperfusion: whom the others condition. Of its kinds the first "
        "by name when absent",
    )
    shares: dict[Name, float] = Field(default={}, description="fixed_weights: modality -> its share")
    levels: dict[Name, int] = Field(default={}, description="lemof: modality -> level (0 to 2), where it is not chosen")
    lora_rank: int = Field(default=8, ge=1, le=256, description="training.encoders = 'adapters'")

    @field_validator("system")
    @classmethod
    def _known_system(cls, value: str) -> str:
        if value not in SYSTEMS:
            raise ValueError(f"no system of this name. {nearest(value, SYSTEMS)}")
        return value

    @model_validator(mode="after")
    def _heads_divide_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}. Change one.")
        return self


class PhasePlan(Section):
    """Some rounds of a study that train one part of the model for one purpose."""

    name: Name
    rounds: int = Field(ge=1)
    objective: Name = Field(default="tasks", description="'tasks', 'segmentation' or a part that the system names")
    trains: tuple[Part, ...] = PARTS
    patients: Literal["all", "fit", "stack"] = Field(
        default="all", description="'stack': a fifth of the training patients by a salted hash; 'fit': the others"
    )
    learning_rate: float | None = Field(default=None, gt=0, le=10, description="training.learning_rate when absent")

    @field_validator("trains")
    @classmethod
    def _trains_something(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            raise ValueError(f"it names nothing. List some of: {', '.join(PARTS)}, or their parts, e.g. encoders.ecg.")
        return value


class TrainingPlan(Section):
    """How a site trains within a round and what it shares."""

    rounds: int = Field(ge=1, le=MOST_ROUNDS)
    steps: int = Field(ge=1, le=100_000, description="optimiser steps a site and round")
    batch: int = Field(ge=1, le=100_000, description="expected patients a step")
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    encoders: Literal["frozen", "local", "shared", "adapters"] = Field(
        default="local", description="'adapters': low-rank ones (LoRA) inside frozen encoders are shared"
    )
    final_encoders: Literal["mean", "initial"] = Field(
        default="mean", description="what external sites run when encoders are local"
    )
    strategy: Literal["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad", "fedmedian", "fedtrimmedavg"] = "fedavg"
    phases: tuple[PhasePlan, ...] = Field(description="the system's own when absent")
    unpaired: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="share of the training patients lacking a modality of the headline's whose samples without it are "
        "trained on where modalities are fused, by a salted hash; 0: only samples that have every one",
    )
    proximal: float = Field(default=0.0, ge=0, le=1e3, description="mu of FedProx; 0: FedAvg")
    local: tuple[Literal["norms", "heads"], ...] = Field(default=(), description="never shared: FedBN, local heads")
    finetune: int = Field(default=0, ge=0, le=100_000, description="steps each training site adds after the last round")

    @model_validator(mode="after")
    def _phases_fill_the_rounds(self) -> Self:
        if not self.phases:  # not by min_length, which also counts phases that are faulty themselves
            raise ValueError("there is no phase. Write one, or leave 'phases' to the system.")
        if self.rounds < len(self.phases):
            named = ", ".join(phase.name for phase in self.phases)
            raise ValueError(
                f"rounds = {self.rounds} are fewer than the phases ({named}). Give each at least one round."
            )
        if (total := sum(phase.rounds for phase in self.phases)) != self.rounds:
            raise ValueError(f"the phases have {total} rounds, rounds = {self.rounds}. Make them equal.")
        return self


class PrivacyPlan(Section):
    """What the releases of a site promise, and to whom; ``none`` must be written out.

    ``epsilon`` is of everything that training patients (or, in mode 'site', a whole site) pay for in this study:
    training, statistics and recalibration together.
    """

    mode: Literal["patient", "site", "none"]
    epsilon: float | None = Field(default=None, gt=0, le=100)
    delta: float = Field(default=1e-5, gt=0, lt=1e-2)
    clip: float = Field(
        default=1.0, gt=0, le=1e4, description="L2 bound of one patient's gradient; of a site's update in mode 'site'"
    )
    records: Literal["one", "all"] = Field(
        default="one", description="of a patient in a step: one drawn at random, or the mean gradient of all"
    )
    aggregation: Literal["plain", "secure"] = Field(
        default="plain", description="'secure': the coordinator sees the sum of the sites' updates only (SecAgg+)"
    )
    noise: Literal["local", "distributed"] = Field(
        default="local", description="'distributed': the sites' noises protect together, under secure aggregation"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_accountant(cls, data: Any) -> Any:
        if isinstance(data, dict) and "accountant" in data:
            raise ValueError(
                "the accountant is no choice: RDP decides, PLD is told beside it; 'gdp' understates epsilon, so that a "
                "release would cost more than is counted. Remove 'accountant'."
            )
        return data

    @model_validator(mode="after")
    def _private_needs_epsilon(self) -> Self:
        if self.mode != "none" and self.epsilon is None:
            raise ValueError(f"mode '{self.mode}' needs 'epsilon'. Add e.g. epsilon = 8.0.")
        if self.mode == "none" and self.epsilon is not None:
            raise ValueError("mode 'none' has no epsilon. Remove 'epsilon' or set mode = 'patient'.")
        return self


class StatisticsPlan(Section):
    """Counts over all sites that constants of a later study can be taken from: histograms and prevalences."""

    modalities: tuple[Name, ...] = Field(default=(), description="tables and events whose fields are counted in bins")
    tasks: tuple[Name, ...] = Field(default=(), description="binary, multilabel and multiclass tasks")
    epsilon: float | None = Field(default=None, gt=0, le=100, description="part of privacy.epsilon; with it noised")


class RoundsPlan(Section):
    """When a round counts."""

    quorum: int = Field(ge=1, description="training sites whose updates must be accepted")
    deadline: float = Field(default=600.0, gt=0, description="seconds a phase waits for replies")
    max_norm: float | None = Field(
        default=None,
        gt=0,
        description="L2 bound of an accepted update (difference to the base); 1000 when absent, not under 'secure'",
    )


class EvaluationPlan(Section):
    """What is held out and how it is judged."""

    holdout: float = Field(default=0.2, gt=0, lt=1, description="share of patients never trained on")
    salt: str = Field(min_length=8, description="fixes the held-out patients")
    bootstrap: int = Field(default=1000, ge=100, le=100_000)
    min_patients: int = Field(default=10, ge=2, description="smaller cohorts release no metric")
    epsilon: float | None = Field(
        default=None, gt=0, le=100, description="of the judged patients: metrics come from noised histograms then"
    )
    recalibrate: bool = Field(default=False, description="judge the model with refitted intercepts beside the raw one")
    recalibrate_epsilon: float | None = Field(default=None, gt=0, le=100, description="part of privacy.epsilon")
    held_out_from: date | None = Field(
        default=None,
        description="patients with an index time on this day (of the site) or later are held out, instead of a share",
    )
    subsets: Literal["alone", "every"] = Field(
        default="alone",
        description="'every': all sets of modalities, what each modality contributes, and the attention that it gets",
    )
    hidden: tuple[Share, ...] = Field(
        default=(), description="shares of the inputs hidden at random, judged in turn; never the last of a row"
    )
    hidden_of: tuple[Name, ...] = Field(
        default=(), description="the modalities that 'hidden' hides; all of the headline's when empty"
    )
    subgroups: tuple[Name, ...] = Field(
        default=(),
        description="'age', categorical concepts ('sex'), 'paired' (whether a row has every modality of the "
        "headline's), names of [subgroups] in site files",
    )
    age_edges: tuple[Years, ...] = Field(default=(65,), description="of the subgroups by age: completed years, rising")
    feature_groups: dict[Name, tuple[Name, ...]] = Field(
        default={}, description="group -> fields of tables and events: what the headline metric loses without them"
    )
    described: bool = Field(default=False, description="tell Table 1 of the judged patients and how they came about")
    every: int = Field(
        default=0, ge=0, description="rounds between points of the learning curves (of training sites only); 0: none"
    )

    @model_validator(mode="after")
    def _parts_can_be_told(self) -> Self:
        more = {"hidden": self.hidden, "subgroups": self.subgroups, "described": self.described, "every": self.every}
        more |= {"feature_groups": self.feature_groups}
        asked = [name for name, wanted in (more | {"subsets": self.subsets == "every"}).items() if wanted]
        if self.epsilon is not None and asked:
            raise ValueError(f"with 'epsilon', {', '.join(asked)} cannot be told: no noised form. Remove one.")
        for name in ("hidden", "hidden_of", "subgroups", "age_edges"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"'{name}' names something twice. Name it once.")
        if any(first > second for first, second in pairwise(self.age_edges)):
            raise ValueError("'age_edges' must rise. Write e.g. age_edges = [65, 80].")
        return self

    @property
    def split(self) -> str:
        """Names which patients are held out: equal for two studies when they are the same ones."""
        by = f"{self.salt}\0{self.holdout}" if self.held_out_from is None else f"from\0{self.held_out_from}"
        return hashlib.sha256(by.encode()).hexdigest()
