"""The study: the coordinator's plan, typed, validated and identified by a hash.

A site takes part only in studies whose `Study.identity` it approved, so everything that can change what a site
computes or releases stands in this file. Times are seconds, rates Hz, counts patients.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from fl_shared import concepts, toml
from fl_shared.errors import ExitCode, UnfitError
from fl_shared.fitting import unfit
from fl_shared.models.systems import resolved
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
    StatisticsPlan,
    TrainingPlan,
)
from fl_shared.plans_finished import JudgedPlan, PromotionPlan
from fl_shared.task import TIMED, TaskPlan, TaskType
from fl_shared.toml import Name, Section

__all__ = [
    "PARTS",
    "TIMED",
    "EvaluationPlan",
    "JudgedPlan",
    "Kind",
    "ModalityPlan",
    "ModelPlan",
    "Part",
    "PhasePlan",
    "PrivacyPlan",
    "PromotionPlan",
    "Provenance",
    "RoundsPlan",
    "SitePlan",
    "StatisticsPlan",
    "Study",
    "TaskPlan",
    "TaskType",
    "TrainingPlan",
    "hidden_draw",
    "in_stack",
    "is_held_out",
    "is_taken",
    "load_study",
]

STACK_SHARE = 0.2
MAX_NORM = 1e3
NORM = re.compile(r"(^|\.)[a-z_]*norm\d*\.", re.IGNORECASE)  # so every normalisation layer is named (tested)


Identity = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


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
    statistics: StatisticsPlan | None = None
    constants_from: tuple[Identity, ...] = Field(
        default=(), description="identities of studies whose statistics this study's constants were taken from"
    )
    promotion: PromotionPlan | None = Field(default=None, description="what the model must reach to be handed on")
    judged: JudgedPlan | None = Field(default=None, description="a finished model: nothing is trained")

    @model_validator(mode="before")
    @classmethod
    def _filled_by_the_system(cls, data: Any) -> Any:
        return resolved(data)

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        if faults := list(unfit(self)):
            raise UnfitError(faults)
        return self

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
        return self._phase_and_round(round)[0]

    def phase_round(self, round: int) -> int:
        """Number of a round within its phase (from 1)."""
        return self._phase_and_round(round)[1]

    def _phase_and_round(self, round: int) -> tuple[PhasePlan, int]:
        for phase in self.training.phases[:-1]:
            if round <= phase.rounds:
                return phase, round
            round -= phase.rounds
        return self.training.phases[-1], round

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
        return not self.is_shared(name) and any(self.trains_in(name, phase) for phase in self.training.phases)

    def trains(self, name: str, round: int) -> bool:
        """Whether a round changes an array of the model (a buffer, where a phase fills one)."""
        return self.trains_in(name, self.phase(round))

    def trains_in(self, name: str, phase: PhasePlan) -> bool:
        """Whether a phase changes an array of the model."""
        frozen = self.training.encoders == "frozen" or (self.training.encoders == "adapters" and ".lora_" not in name)
        if frozen and name.startswith("encoders."):
            return False
        return any(name == part or name.startswith(f"{part}.") for part in phase.trains)

    def releases(self, name: str, round: int) -> bool:
        """Whether a site's answer to a round holds an array of the model."""
        return self.is_shared(name) and self.trains(name, round)

    def warnings(self) -> tuple[str, ...]:
        """What is allowed and seldom wise."""
        found: list[str] = []
        if self.judged is not None:
            return ()
        start = [name for name, plan in self.modalities.items() if plan.weights is None]
        if self.training.encoders != "shared" and start:
            kept = "drift apart between sites" if self.training.encoders == "local" else "stay as they were drawn"
            found.append(
                f"encoders of {', '.join(start)} start at random and {kept}, while only the fusion is shared: "
                "start from pretrained bundles (fl-client pretrain), or share the encoders."
            )
        if "heads" in self.training.local and self.training.final_encoders == "initial" and self.external_sites:
            found.append(
                "heads are local and their mean is not released (training.final_encoders = 'initial'): "
                "external sites judge with heads that nobody trained."
            )
        if self.training.unpaired < 1 and self.privacy.mode == "patient":
            found.append(
                "training.unpaired leaves patients out: declare as 'patients' of a site about as many as are trained "
                "on, since noised sums are divided by what is declared."
            )
        return tuple(found)

    @property
    def pays(self) -> bool:
        """Whether sites pay for what they release, from their privacy ledgers."""
        return self.privacy.mode != "none" or self.evaluation.epsilon is not None

    @property
    def norm_limit(self) -> float:
        """L2 bound of an accepted update; infinite where the coordinator cannot see one."""
        if self.privacy.aggregation == "secure":
            return math.inf
        return MAX_NORM if self.rounds.max_norm is None else self.rounds.max_norm

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


def is_taken(patient_id: str, *, site: str, plan: EvaluationPlan, share: float) -> bool:
    """Whether a training patient's samples that lack a modality are among the ``share`` trained on
    (`TrainingPlan.unpaired`): by a salted hash, so that it hangs on no other patient and on no outcome.
    """
    return _drawn(f"{plan.salt}\0unpaired", site, patient_id) < share


def is_held_out(patient_id: str, *, site: str, plan: EvaluationPlan, latest: date | None = None) -> bool:
    """Whether a patient is never trained on: a salted hash, so that it cannot depend on any outcome.

    Where the study splits by time, the day of the patient's ``latest`` index time decides.

    Raises:
        ValueError: the study splits by time, and the day is not given.
    """
    if plan.held_out_from is not None:
        if latest is None:
            raise ValueError("the study holds patients out by time: give the day of the latest index time")
        return latest >= plan.held_out_from
    return _drawn(plan.salt, site, patient_id) < plan.holdout


def hidden_draw(patient_id: str, *, site: str, modality: str, plan: EvaluationPlan) -> float:
    """Uniform in [0, 1): a patient's modality is hidden where a share of `EvaluationPlan.hidden` is larger."""
    return _drawn(f"{plan.salt}\0hidden\0{modality}", site, patient_id)


def _drawn(salt: str, site: str, patient_id: str) -> float:
    """Uniform in [0, 1)."""
    digest = hashlib.sha256(f"{salt}\0{site}\0{patient_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
