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
    package: str


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
