"""What a variant's model is: its size, and whether per-patient gradients of it are known to be exact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from fl_shared.budget import budget
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.study import Study


@dataclass(frozen=True, kw_only=True)
class Examined:
    """A variant: its study without privacy, parameters of the whole model, and whether the fusion is native."""

    study: Study
    parameters: int
    native: bool


def examine(study: Study, *, weights: Mapping[str, Path]) -> Examined:
    """Build the model once.

    Raises:
        ConsiliumError: an unknown name, or a phase that trains nothing (exit code 10); weights refused (11).
    """
    from fl_shared.models.build import build_model
    from fl_shared.models.registry import FUSIONS

    model = build_model(study, weights=weights)
    return Examined(
        study=study,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        native=FUSIONS.get(study.model.fusion, key="model.fusion").native_missing,
    )


def not_private(study: Study, *, weights: Mapping[str, Path]) -> str:
    """Why a model cannot be trained with patient-level privacy, in words; empty when nothing is known against it.

    The sites find out too, but only after they have read their data.

    Raises:
        ConsiliumError: as `examine`.
    """
    return "; ".join(dict.fromkeys([*_inexact(study), *_banned(study, weights)]))


def _inexact(study: Study) -> Iterator[str]:
    """Parts that are registered as inexact."""
    from fl_shared.models import build as _registers_all  # noqa: F401
    from fl_shared.models.registry import ENCODERS, FUSIONS

    entries = [("fusion", FUSIONS.get(study.model.fusion, key="model.fusion"))]
    for name, plan in study.modalities.items():
        if study.training.encoders != "frozen":
            entry = ENCODERS.get(plan.encoder or plan.kind, key=f"modalities.{name}.encoder", kind=plan.kind)
            entries.append(("encoder", entry))  # type: ignore[arg-type]
    yield from (f"{sort} '{entry.name}' has no exact per-patient gradients" for sort, entry in entries if not entry.dp)


def _banned(study: Study, weights: Mapping[str, Path]) -> Iterator[str]:
    """Modules that the sites refuse by name, where a phase trains them."""
    from fl_client.privacy.clipping import refuse_banned
    from fl_shared.models.build import build_model

    model = build_model(study, weights=weights)
    lengths = [phase.rounds for phase in study.training.phases]
    for first in accumulate(lengths[:-1], initial=1):
        model.enter(first)
        try:
            refuse_banned(model)
        except ConsiliumError as error:
            yield from (f"{fault.key}: {fault.problem}" for fault in error.faults)


def no_noise_reaches(study: Study) -> str:
    """Why a site cannot train under the study's epsilon; empty when all can."""
    try:
        for name in study.train_sites:
            budget(study, name, delta=study.privacy.delta)
    except ConsiliumError as error:
        if error.code != ExitCode.PRIVACY:
            raise
        return error.message
    return ""
