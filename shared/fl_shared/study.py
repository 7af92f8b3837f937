"""The study: the coordinator's plan, typed, validated and identified by a hash.

A site takes part only in studies whose `Study.identity` it approved, so everything that can change what a site
computes or releases stands in this file. Times are seconds, rates Hz, counts patients.
"""

from __future__ import annotations

import hashlib
import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from fl_shared import concepts, toml
from fl_shared.errors import ExitCode, nearest
from fl_shared.models.systems import SYSTEMS, resolved
from fl_shared.plans import (
    PARTS,
    EvaluationPlan,
    Kind,
    ModalityPlan,
    ModelPlan,
    Part,
    PhasePlan,
    PrivacyPlan,
    Provenance,
    RoundsPlan,
    SitePlan,
    TrainingPlan,
)
from fl_shared.task import TIMED, TaskPlan, TaskType
from fl_shared.toml import Name, Section

__all__ = [
    "PARTS",
    "TIMED",
    "EvaluationPlan",
    "Kind",
    "ModalityPlan",
    "ModelPlan",
    "Part",
    "PhasePlan",
    "PrivacyPlan",
    "Provenance",
    "RoundsPlan",
    "SitePlan",
    "Study",
    "TaskPlan",
    "TaskType",
    "TrainingPlan",
    "in_stack",
    "is_held_out",
    "load_study",
]

STACK_SHARE = 0.2
NORM = re.compile(r"(^|\.)[a-z_]*norm\d*\.", re.IGNORECASE)  # so every normalisation layer is named (tested)


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

    @model_validator(mode="before")
    @classmethod
    def _filled_by_the_system(cls, data: Any) -> Any:
        return resolved(data)

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
        if self.privacy.mode == "patient" and (reason := self._not_private()):
            raise ValueError(f"{reason}. Change this, or use privacy mode 'none'.")
        for name, task in self.tasks.items():
            if task.modality is not None and getattr(self.modalities.get(task.modality), "kind", "") != "cine":
                raise ValueError(f"tasks.{name}.modality '{task.modality}' is no cine modality. Name one.")
            if not any(self._trains(f"heads.{name}", phase) for phase in self.training.phases) and task.modality:
                raise ValueError(
                    f"no phase of system '{self.model.system}' trains the segmentation '{name}'. Remove it."
                )
        system = SYSTEMS[self.model.system]
        if self.model.fusion not in system.fusions:
            mend = nearest(self.model.fusion, system.fusions)
            raise ValueError(f"system '{system.name}' has no fusion '{self.model.fusion}'. {mend}")
        return self

    def _not_private(self) -> str:
        """Why the study cannot be trained with patient-level privacy, as far as the plan alone tells."""
        if self.training.strategy == "fedmedian":
            return "fedmedian is not the mean that the privacy accounting assumes"
        if self.training.finetune:
            return "fine-tuning after the last round is not noised, and its metrics would be released"
        for name, plan in self.modalities.items():
            if plan.weights is not None and plan.provenance in (None, "local"):
                how = "pretrained locally without privacy" if plan.provenance else "pretrained without a provenance"
                return f"encoders.{name}: {how}, so that releases would depend on training patients unprotected"
        if cox := [name for name, task in self.tasks.items() if task.head == "survival_cox"]:
            return f"the Cox loss of task '{cox[0]}' couples patients (survival_model 'hazard' and 'weibull' do not)"
        return SYSTEMS[self.model.system].refuses(self)

    @property
    def train_sites(self) -> tuple[str, ...]:
        """Names of the training sites in the order of every sum (sorted)."""
        return tuple(sorted(n for n, s in self.sites.items() if s.role == "train"))

    @property
    def external_sites(self) -> tuple[str, ...]:
        """Names of the sites that only judge (sorted)."""
        return tuple(sorted(n for n, s in self.sites.items() if s.role == "external"))

    def phase(self, round: int) -> PhasePlan:
        """The phase of a round (from 1); after the last round, the last phase."""
        for phase in self.training.phases:
            if round <= phase.rounds:
                return phase
            round -= phase.rounds
        return self.training.phases[-1]

    def is_shared(self, name: str) -> bool:
        """Whether an array of the model (``encoders.ecg.conv.weight``) belongs to all sites, not to each its own."""
        if ".lora_" in name:
            return self.training.encoders in ("shared", "adapters")
        part = name.partition(".")[0]
        if part in self.training.local or ("norms" in self.training.local and NORM.search(name)):
            return False
        if part == "encoders":
            return self.training.encoders == "shared"
        # over frozen encoders the adapters are all that could drift apart between sites
        return part != "adapters" or self.training.encoders != "local"

    def is_local(self, name: str) -> bool:
        """Whether each training site has its own of this array: trained, but not shared."""
        return not self.is_shared(name) and any(self._trains(name, phase) for phase in self.training.phases)

    def trains(self, name: str, round: int) -> bool:
        """Whether a round changes an array of the model (a buffer, where a phase fills one)."""
        return self._trains(name, self.phase(round))

    def _trains(self, name: str, phase: PhasePlan) -> bool:
        frozen = self.training.encoders == "frozen" or (self.training.encoders == "adapters" and ".lora_" not in name)
        if frozen and name.startswith("encoders."):
            return False
        return any(name == part or name.startswith(f"{part}.") for part in phase.trains)

    def releases(self, name: str, round: int) -> bool:
        """Whether a site's answer to a round holds an array of the model."""
        return self.is_shared(name) and self.trains(name, round)

    def warnings(self) -> tuple[str, ...]:
        """What is allowed and seldom wise."""
        start = [name for name, plan in self.modalities.items() if plan.weights is None]
        if self.training.encoders == "shared" or not start:
            return ()
        kept = "drift apart between sites" if self.training.encoders == "local" else "stay as they were drawn"
        return (
            f"encoders of {', '.join(start)} start at random and {kept}, while only the fusion is shared: "
            "start from pretrained bundles (fl-client pretrain), or share the encoders.",
        )

    def sampling_rate(self, site: str) -> float:
        """Poisson rate q of a site: expected patients a step over declared patients."""
        return min(1.0, self.training.batch / self.sites[site].patients)

    def canonical(self) -> str:
        """The resolved study as canonical JSON (sorted keys, defaults, package version, digest of the concept file)."""
        study = self.model_dump(mode="json", by_alias=True)
        body = {"package": version("consilium"), "concepts": concepts.digest(), "study": study}
        return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @property
    def keeps_local(self) -> bool:
        """Whether training sites have parameters of their own that change."""
        return self.training.encoders == "local" or bool(self.training.local)

    @property
    def is_personal(self) -> bool:
        """Whether each training site ends with a model of its own besides the common one."""
        return bool(self.training.local or self.training.finetune)

    @property
    def identity(self) -> str:
        """SHA-256 of `canonical`: what a site approves."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


def load_study(path: Path) -> Study:
    """Read ``study.toml``; every fault is reported at once (exit code 10)."""
    return toml.load(path, Study, code=ExitCode.STUDY)


def in_stack(patient_id: str, *, site: str, plan: EvaluationPlan) -> bool:
    """Whether a training patient belongs to the fifth that a phase with patients = 'stack' trains on."""
    return _drawn(f"{plan.salt}\0stack", site, patient_id) < STACK_SHARE


def is_held_out(patient_id: str, *, site: str, plan: EvaluationPlan) -> bool:
    """Whether a patient is never trained on: a salted hash, so that it cannot depend on any outcome."""
    return _drawn(plan.salt, site, patient_id) < plan.holdout


def _drawn(salt: str, site: str, patient_id: str) -> float:
    """Uniform in [0, 1)."""
    digest = hashlib.sha256(f"{salt}\0{site}\0{patient_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
