"""From a finished model to the study in which sites that took no part judge it: nothing is trained.

The study keeps the model's tasks, inputs, training (which shapes it) and evaluation, and pins the digest of its arrays,
so that a site judges the very model that it approved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_shared import toml
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.plans_finished import Whose
from fl_shared.study import Study
from fl_shared.wire import Arrays, digest

OF_INPUTS = ("hidden", "hidden_of", "feature_groups", "subgroups", "subsets")
AGAINST = "against"
"""Name of the second model in results."""
PREFIX = f"{AGAINST}."  # of its arrays, where both travel together


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A finished model: the study that trained it (and its identity then), all its arrays, which of the run's it is."""

    study: Study
    identity: str
    arrays: Arrays
    model: Whose = "federated"


def judging_study(
    model: Finished,
    *,
    sites: Iterable[str],
    name: str = "",
    against: Finished | None = None,
    deadline: float | None = None,
) -> Study:
    """The study in which ``sites`` judge a model, and tell how it differs from another one on the same patients.

    Args:
        model: what is judged.
        sites: sites that trained neither model.
        name: of the study; made from the model's when empty.
        against: of the same tasks and inputs.
        deadline: seconds; that of the model's study when absent.

    Raises:
        ConsiliumError: the parts do not fit (exit code 10), all faults at once.
    """
    body = _short(model.study)
    if against is not None:
        same_tasks(model.study, against.study)
    made = {
        **{key: part for key, part in body.items() if key not in ("statistics", "constants_from", "promotion")},
        "name": name or f"{model.study.name[:41]}_judged",
        "sites": {site: {"role": "external"} for site in sites},
        "privacy": {k: v for k, v in body["privacy"].items() if k not in ("aggregation", "noise")},
        "rounds": {"quorum": 1, "deadline": deadline or model.study.rounds.deadline},
        "evaluation": {k: v for k, v in body["evaluation"].items() if not k.startswith("recalibrate") and k != "every"},
        "judged": {
            "arrays": digest(model.arrays),
            "study": model.identity,
            "trained_by": list(model.study.train_sites),
            "model": model.model,
            "against": _other(against) if against is not None else None,
        },
    }
    return toml.validated(made, Study, path=Path("study.toml"), code=ExitCode.STUDY)


def other_study(study: Study) -> Study:
    """The study that builds the second model: the same, but for that model's own parts."""
    plan = study.judged.against if study.judged is not None else None
    if study.judged is None or plan is None:
        raise ValueError("the study judges one model")
    body, other = (part.model_dump(mode="json", by_alias=True) for part in (study, plan))
    judged = {key: other[key] for key in ("arrays", "study", "trained_by")}
    parts = {key: other[key] for key in ("seed", "modalities", "model", "training")}
    if other["modalities"].keys() != body["modalities"].keys():
        # what is told of single inputs of the first may name none of the second's
        parts["evaluation"] = {k: v for k, v in body["evaluation"].items() if k not in OF_INPUTS}
    return Study.model_validate({**body, **parts, "privacy": {"mode": "none"}, "judged": judged})


def travelling(model: Arrays, against: Arrays | None) -> Arrays:
    """The arrays of both models, named apart."""
    return {**model, **{f"{PREFIX}{name}": array for name, array in (against or {}).items()}}


def apart(arrays: Arrays) -> tuple[dict[str, Any], dict[str, Any]]:
    """The inverse of `travelling`; the second is empty where one model travelled."""
    second = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
    return {name: array for name, array in arrays.items() if not name.startswith(PREFIX)}, second


def are_judged(study: Study, arrays: Arrays) -> bool:
    """Whether these are the very arrays that the study judges."""
    plan = study.judged
    if plan is None:
        return False
    first, second = apart(arrays)
    known = plan.against.arrays if plan.against is not None else digest({})
    return digest(first) == plan.arrays and digest(second) == known


def refuse_others(study: Study, arrays: Arrays, *, file: str) -> None:
    """Refuse arrays that the study does not judge.

    Raises:
        ConsiliumError: they are others, or none are judged (exit code 10).
    """
    if study.judged is None:
        mend = "Write one with fl-server evaluate --model RUN --sites NAME,NAME --write FILE"
        raise ConsiliumError(f"{file}: this study judges no finished model. {mend}", code=ExitCode.STUDY)
    if not are_judged(study, arrays):
        both = " --against RUN" if study.judged.against is not None else ""
        message = f"{file}: these are not the arrays that study '{study.name}' judges ({study.judged.arrays[:12]})"
        raise ConsiliumError(f"{message}. Run it with fl-server evaluate FILE --model RUN{both}", code=ExitCode.STUDY)


def _short(study: Study) -> dict[str, Any]:
    """A study without what it would be given anyway; its model in full, since the defaults there are its system's."""
    body: dict[str, Any] = study.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return body | {"model": study.model.model_dump(mode="json", exclude_none=True)}


def _other(model: Finished) -> Mapping[str, Any]:
    body = _short(model.study)
    return {
        "arrays": digest(model.arrays),
        "study": model.identity,
        "trained_by": list(model.study.train_sites),
        **{key: body[key] for key in ("seed", "modalities", "model", "training")},
    }


def same_tasks(first: Study, second: Study) -> None:
    """What both predict must be one and the same.

    Raises:
        ConsiliumError: it is not (exit code 10).
    """
    faults = [
        Fault(
            file="study.toml",
            key=f"tasks.{name}",
            problem="not the same in both models",
            mend="Only models of the same tasks can be compared.",
        )
        for name in sorted(first.tasks.keys() | second.tasks.keys())
        if first.tasks.get(name) != second.tasks.get(name)
    ]
    if faults:
        message = f"'{first.name}' and '{second.name}' predict different things"
        raise ConsiliumError(message, code=ExitCode.STUDY, faults=faults)
