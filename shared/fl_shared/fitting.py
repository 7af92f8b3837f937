"""What does not fit together in a study, beyond what each of its sections checks of itself: told before any training.

Only names are known here; what needs the model itself is checked when it is built (`fl_shared.models.build`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from fl_shared.errors import Fault, misfit, nearest
from fl_shared.fitting_counts import unfit_counts
from fl_shared.fitting_evaluation import unfit_evaluation
from fl_shared.fitting_finished import unfit_judged, unfit_promotion
from fl_shared.fitting_privacy import unfit_privacy
from fl_shared.models.systems import SYSTEMS
from fl_shared.models.systems.system import CHOOSE, OBJECTIVES
from fl_shared.plans import SERIES, PhasePlan

if TYPE_CHECKING:
    from fl_shared.study import Study


def unfit(study: Study) -> Iterator[Fault]:
    """Every fault, as far as names tell; ``file`` is left empty."""
    yield from _sites(study)
    yield from _model(study)
    yield from _tasks(study)
    yield from _phases(study)
    yield from unfit_counts(study)
    yield from unfit_evaluation(study)
    yield from unfit_judged(study)
    yield from unfit_promotion(study)
    yield from unfit_privacy(study)


def _sites(study: Study) -> Iterator[Fault]:
    train = study.train_sites
    if study.judged is not None:
        return
    if not train:
        yield misfit("sites", "no site has role 'train'", "Give at least one")
    elif study.rounds.quorum > len(train):
        problem = f"exceeds the {len(train)} training sites"
        yield misfit("rounds.quorum", problem, "Lower it", value=str(study.rounds.quorum))
    for name in train:
        if study.sites[name].patients == 0:
            yield misfit(f"sites.{name}.patients", "a training site declares no patients", "Add 'patients = N'")


def _model(study: Study) -> Iterator[Fault]:
    model, system = study.model, SYSTEMS[study.model.system]
    if model.fusion not in system.fusions:
        problem = f"system '{system.name}' has no such fusion"
        yield misfit("model.fusion", problem, nearest(model.fusion, system.fusions), value=model.fusion)
    named = {f"{key}.{name}": name for key in ("shares", "levels") for name in getattr(model, key)}
    for key, name in (named | ({"guide": model.guide} if model.guide is not None else {})).items():
        if name not in study.modalities:
            yield misfit(f"model.{key}", "no modality of this name", nearest(name, study.modalities), value=name)


def _tasks(study: Study) -> Iterator[Fault]:
    for name, task in study.tasks.items():
        if task.modality is None:
            continue
        if getattr(study.modalities.get(task.modality), "kind", "") != "cine":
            key = f"tasks.{name}.modality"
            yield misfit(key, "no cine modality of this name", "Name one", value=task.modality)
        if not any(study.trains_in(f"heads.{name}", phase) for phase in study.training.phases):
            problem = f"no phase of system '{study.model.system}' trains this segmentation"
            yield misfit(f"tasks.{name}", problem, "Remove it, or write phases that train its head")


def _phases(study: Study) -> Iterator[Fault]:
    phases = study.training.phases
    known = (*OBJECTIVES, *SYSTEMS[study.model.system].objectives.get(study.model.fusion, ()))
    heads = _heads(study)
    for number, phase in enumerate(phases):
        key = f"training.phases.{number}"
        if phase.name in (other.name for other in phases[:number]):
            yield misfit(f"{key}.name", "an earlier phase has this name", "Choose another", value=phase.name)
        wrong = [part for part in phase.trains if not _is_named(part, study, heads)]
        for part in wrong:
            group = part.split(".")[0]
            names = heads if group == "heads" else study.modalities
            mend = nearest(part, [f"{group}.{name}" for name in names])
            yield misfit(f"{key}.trains", "the model has no such part", mend, value=part)
        if phase.objective not in known:
            problem = f"no objective of fusion '{study.model.fusion}'"
            yield misfit(f"{key}.objective", problem, nearest(phase.objective, known), value=phase.objective)
        elif not (reached := _reached(study, phase.objective)):
            matter = {"segmentation": "segmentation", "masked": "series", "unimodal": "task but segmentations"}
            problem = f"the study has no {matter.get(phase.objective, 'task')} for it"
            yield misfit(f"{key}.objective", problem, "Remove this phase, or add one", value=phase.objective)
        elif not wrong and not _changes(study, phase, reached):
            frozen = "; encoders are frozen" if study.training.encoders == "frozen" else ""
            mend = f"Train some of: {', '.join(reached)}, or remove this phase"
            yield misfit(f"{key}.trains", f"nothing that its objective depends on{frozen}", mend)
    if study.training.finetune and phases[-1].objective == CHOOSE:
        value = str(study.training.finetune)
        yield misfit("training.finetune", "the last phase takes no steps", "Remove it", value=value)


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
