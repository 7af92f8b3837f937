"""What does not fit together in a study, beyond what each of its sections checks of itself: told before any training.

Only names are known here; what needs the model itself is checked when it is built (`fl_shared.models.build`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from fl_shared.errors import Fault, nearest
from fl_shared.models.systems import SYSTEMS
from fl_shared.models.systems.system import OBJECTIVES
from fl_shared.plans import SERIES, PhasePlan

if TYPE_CHECKING:
    from fl_shared.study import Study

CHOOSE = "choose"


def unfit(study: Study) -> Iterator[Fault]:
    """Every fault, as far as names tell; ``file`` is left empty."""
    yield from _sites(study)
    yield from _model(study)
    yield from _tasks(study)
    yield from _phases(study)
    if study.privacy.mode == "patient" and (reason := _not_private(study)):
        yield _fault("privacy.mode", reason, "Change this, or use privacy mode 'none'", value="patient")


def _sites(study: Study) -> Iterator[Fault]:
    train = study.train_sites
    if not train:
        yield _fault("sites", "no site has role 'train'", "Give at least one")
    elif study.rounds.quorum > len(train):
        problem = f"exceeds the {len(train)} training sites"
        yield _fault("rounds.quorum", problem, "Lower it", value=str(study.rounds.quorum))
    for name in train:
        if study.sites[name].patients == 0:
            yield _fault(f"sites.{name}.patients", "a training site declares no patients", "Add 'patients = N'")


def _model(study: Study) -> Iterator[Fault]:
    model, system = study.model, SYSTEMS[study.model.system]
    if model.fusion not in system.fusions:
        problem = f"system '{system.name}' has no such fusion"
        yield _fault("model.fusion", problem, nearest(model.fusion, system.fusions), value=model.fusion)
    named = {f"{key}.{name}": name for key in ("shares", "levels") for name in getattr(model, key)}
    for key, name in (named | ({"guide": model.guide} if model.guide is not None else {})).items():
        if name not in study.modalities:
            yield _fault(f"model.{key}", "no modality of this name", nearest(name, study.modalities), value=name)


def _tasks(study: Study) -> Iterator[Fault]:
    for name, task in study.tasks.items():
        if task.modality is None:
            continue
        if getattr(study.modalities.get(task.modality), "kind", "") != "cine":
            key = f"tasks.{name}.modality"
            yield _fault(key, "no cine modality of this name", "Name one", value=task.modality)
        if not any(study.trains_in(f"heads.{name}", phase) for phase in study.training.phases):
            problem = f"no phase of system '{study.model.system}' trains this segmentation"
            yield _fault(f"tasks.{name}", problem, "Remove it, or write phases that train its head")


def _phases(study: Study) -> Iterator[Fault]:
    phases = study.training.phases
    known = (*OBJECTIVES, *SYSTEMS[study.model.system].objectives.get(study.model.fusion, ()))
    heads = _heads(study)
    for number, phase in enumerate(phases):
        key = f"training.phases.{number}"
        if phase.name in (other.name for other in phases[:number]):
            yield _fault(f"{key}.name", "an earlier phase has this name", "Choose another", value=phase.name)
        wrong = [part for part in phase.trains if not _is_named(part, study, heads)]
        for part in wrong:
            group = part.split(".")[0]
            names = heads if group == "heads" else study.modalities
            mend = nearest(part, [f"{group}.{name}" for name in names])
            yield _fault(f"{key}.trains", "the model has no such part", mend, value=part)
        if phase.objective not in known:
            problem = f"no objective of fusion '{study.model.fusion}'"
            yield _fault(f"{key}.objective", problem, nearest(phase.objective, known), value=phase.objective)
        elif not (reached := _reached(study, phase.objective)):
            matter = {"segmentation": "segmentation", "masked": "series", "unimodal": "task but segmentations"}
            problem = f"the study has no {matter.get(phase.objective, 'task')} for it"
            yield _fault(f"{key}.objective", problem, "Remove this phase, or add one", value=phase.objective)
        elif not wrong and not _changes(study, phase, reached):
            frozen = "; encoders are frozen" if study.training.encoders == "frozen" else ""
            mend = f"Train some of: {', '.join(reached)}, or remove this phase"
            yield _fault(f"{key}.trains", f"nothing that its objective depends on{frozen}", mend)
    if study.training.finetune and phases[-1].objective == CHOOSE:
        value = str(study.training.finetune)
        yield _fault("training.finetune", "the last phase takes no steps", "Remove it", value=value)


def _heads(study: Study) -> set[str]:
    """Names of the heads that the study's phases make."""
    objectives = {phase.objective for phase in study.training.phases}
    found = set(study.tasks)
    if "unimodal" in objectives:
        found |= {
            f"{task}@{m}" for task, plan in study.tasks.items() if plan.modality is None for m in study.modalities
        }
    if "masked" in objectives:
        found |= {f"masked@{m}" for m in _series(study)}
    return found


def _is_named(part: str, study: Study, heads: Iterable[str]) -> bool:
    """Whether the first two components of a prefix are a part of the model; a fusion's own parts are not known here."""
    group, *child = part.split(".")[:2]
    known = {"encoders": study.modalities, "adapters": study.modalities, "heads": heads}
    return not child or group not in known or child[0] in known[group]


def _reached(study: Study, objective: str) -> tuple[str, ...]:
    """Prefixes of the arrays that an objective's loss depends on."""
    fused = [name for name, task in study.tasks.items() if task.modality is None]
    drawn = {name: task.modality for name, task in study.tasks.items() if task.modality is not None}
    cine = tuple(f"encoders.{m}" for m in dict.fromkeys(drawn.values()))
    match objective:
        case "segmentation":
            return (*cine, *(f"heads.{name}" for name in drawn))
        case "unimodal":
            lone = (f"heads.{task}@{m}" for task in fused for m in study.modalities)
            return ("encoders", "adapters", *lone) if fused else ()
        case "masked":
            return tuple(f"{part}{m}" for m in _series(study) for part in ("encoders.", "heads.masked@"))
        case "tasks":  # a segmentation is trained with the other tasks only where its encoder is trained
            return ("encoders", "adapters", "fusion", *(f"heads.{name}" for name in fused)) if fused else cine
        case "choose":
            return ("fusion",) if fused else ()
        case _:
            return ("encoders", "adapters", "fusion") if fused or objective == "contrastive" else ()


def _changes(study: Study, phase: PhasePlan, reached: Iterable[str]) -> bool:
    """Whether a phase trains some of the arrays that its objective reaches, but for parts that turn out empty."""
    frozen = study.training.encoders == "frozen"
    return any(
        _meet(part, prefix)
        for part in phase.trains
        for prefix in reached
        if not (frozen and "encoders" in (part.split(".")[0], prefix.split(".")[0]))
    )


def _meet(one: str, other: str) -> bool:
    """Whether two prefixes have arrays in common."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _series(study: Study) -> list[str]:
    return [name for name, plan in study.modalities.items() if plan.kind in SERIES]


def _not_private(study: Study) -> str:
    """Why the study cannot be trained with patient-level privacy, as far as the plan alone tells."""
    if study.training.strategy == "fedmedian":
        return "fedmedian is not the mean that the privacy accounting assumes"
    if study.training.finetune:
        return "fine-tuning after the last round is not noised, and its metrics would be released"
    for name, plan in study.modalities.items():
        if plan.weights is not None and plan.provenance in (None, "local"):
            how = "pretrained locally without privacy" if plan.provenance else "pretrained without a provenance"
            return f"encoders.{name}: {how}, so that releases would depend on training patients unprotected"
    if cox := [name for name, task in study.tasks.items() if task.head == "survival_cox"]:
        return f"the Cox loss of task '{cox[0]}' couples patients (survival_model 'hazard' and 'weibull' do not)"
    if reason := SYSTEMS[study.model.system].refuses(study):
        return reason
    if any(phase.objective == CHOOSE for phase in study.training.phases):
        return "a phase with objective 'choose' releases a function of the patients without noise"
    return ""


def _fault(key: str, problem: str, mend: str, *, value: str = "") -> Fault:
    shown = f"'{value}'" if value and not value.isdigit() else value
    return Fault(file="", key=key, value=shown, problem=problem, mend=mend if mend.endswith((".", "?")) else f"{mend}.")
