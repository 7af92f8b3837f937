"""Encoder bundles: a pretrained encoder in a directory, with where it comes from.

``model.safetensors`` holds the encoder's arrays, ``bundle.json`` this description. A study names the directory
(``weights``) and pins its digest (``weights_sha256``), which covers both.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.study import ModalityPlan, ModelPlan, Provenance
from fl_shared.toml import Name, Section

DESCRIPTION, WEIGHTS = "bundle.json", "model.safetensors"
CONFIG = "config.json"  # of a BERT from elsewhere; a text bundle without it reads bytes


class Origin(Section):
    """One training that an encoder came from. Without a description of its own, only the word of a study is known."""

    provenance: Provenance
    cohort: str = ""
    study: str = ""
    rounds: int = 0
    split: str = Field(default="", description="which patients it held out: `EvaluationPlan.split`")


class Bundle(Section):
    """Where an encoder comes from, and what it was built for.

    ``patients`` is the declared number, ``epsilon`` what the pretraining spent of the cohort's ledger (provenance
    ``dp`` only).
    """

    schema_version: Literal[1] = Field(default=1, alias="schema")
    encoder: Name
    modality: ModalityPlan
    model: ModelPlan
    provenance: Provenance
    objective: Name
    cohort: str
    patients: int = Field(ge=1)
    rounds: int = Field(ge=1)
    steps: int = Field(ge=1)
    epsilon: float | None = None
    delta: float | None = None
    synthetic: bool = False
    study: str = Field(description="identity of the study that trained it")
    split: str = Field(description="which patients it held out")
    upstream: tuple[Origin, ...] = Field(default=(), description="what that study's own encoders had started from")
    package: str

    @property
    def origins(self) -> tuple[Origin, ...]:
        """Every training that this encoder depends on, the earliest first."""
        own = Origin(
            provenance=self.provenance, cohort=self.cohort, study=self.study, rounds=self.rounds, split=self.split
        )
        return (*self.upstream, own)


def origins_of(plan: ModalityPlan, directory: Path) -> tuple[Origin, ...]:
    """Every training that the weights of a modality depend on; of weights from elsewhere, what the study says.

    Raises:
        ConsiliumError: the description is unreadable (exit code 11).
    """
    bundle = read_bundle(directory)
    return bundle.origins if bundle is not None else (Origin(provenance=plan.provenance or "local"),)


def read_bundle(directory: Path) -> Bundle | None:
    """The description of a directory; None when it has none (a BERT from elsewhere).

    Raises:
        ConsiliumError: the description is unreadable (exit code 11).
    """
    path = directory / DESCRIPTION
    if not path.exists():
        return None
    try:
        return Bundle.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        why = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in _errors(error)) or str(error)
        fault = Fault(file=str(path), key="(file)", problem=f"unreadable: {why}", mend="Make the bundle anew.")
        raise ConsiliumError("an encoder bundle cannot be read", code=ExitCode.SITE, faults=[fault]) from error


def _errors(error: Exception) -> list[ErrorDetails]:
    return error.errors() if isinstance(error, ValidationError) else []
