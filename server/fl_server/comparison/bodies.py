"""What would stand in the study.toml of a variant: changes merged table by table, dropped modalities, a mode's keys."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

from fl_server.comparison.plan import Change
from fl_shared.plans import SERIES
from fl_shared.study import Study
from fl_shared.subgroups import PAIRED

Body = dict[str, Any]
POOL = "pooled"  # name of the site that holds all training patients


def merged(body: Body, change: Mapping[str, Any]) -> Body:
    """A study with some keys changed: tables are merged, anything else is replaced."""
    made = dict(body)
    for key, value in change.items():
        old = made.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        made[key] = merged(dict(old), value) if both else deepcopy(value)  # type: ignore[arg-type]
    return made


def chosen(changes: Sequence[Change], known: Collection[str]) -> list[str]:
    """The modalities that all changes keep, in the order of ``known``."""
    return [name for name in known if all(not change.only or name in change.only for change in changes)]


def without_privacy(body: Body) -> Body:
    """The study in mode 'none': what is paid for, and how sums are hidden, goes."""
    private = {k: v for k, v in body.get("privacy", {}).items() if k not in ("epsilon", "noise", "aggregation")}
    made = body | {"privacy": private | {"mode": "none"}}
    for part, key in (("statistics", "epsilon"), ("evaluation", "recalibrate_epsilon")):
        if isinstance(made.get(part), Mapping):
            made[part] = {k: v for k, v in made[part].items() if k != key}
    return made


def with_privacy(body: Body, *, epsilon: float, changes: Sequence[Mapping[str, Any]]) -> Body:
    """The study in mode 'patient' with this epsilon, after the changes of modes with privacy."""
    for change in changes:
        body = merged(body, change)
    return merged(body, {"privacy": {"mode": "patient", "epsilon": epsilon}})


def alone(body: Body, parent: Study, site: str) -> Body:
    """One training site by itself, judged there and at the external sites."""
    outside = {name: body["sites"][name] for name in parent.external_sites}
    return _by_one(body, {site: body["sites"][site]} | outside)


def in_one_place(body: Body, parent: Study) -> Body:
    """All training patients at one site, as many a step as all sites together draw; judged wherever the study is."""
    train = parent.train_sites
    outside = {
        name: {"role": "external", "judged": "held_out" if name in train else plan.judged}
        for name, plan in parent.sites.items()
    }
    pool = {"role": "train", "patients": sum(parent.sites[name].patients for name in train)}
    training = body["training"] | {"batch": body["training"]["batch"] * len(train)}
    return _by_one(body, {POOL: pool} | outside) | {"training": training}


def _by_one(body: Body, sites: Body) -> Body:
    return body | {"sites": sites, "rounds": body["rounds"] | {"quorum": 1}}


def dropped(body: Body, kept: Collection[str]) -> Body:
    """The study without the other modalities, and without what names them."""
    if set(body["modalities"]) <= set(kept):
        return body
    made = deepcopy(body)
    made["modalities"] = {name: plan for name, plan in body["modalities"].items() if name in kept}
    lost = {name for name, task in body["tasks"].items() if task.get("modality") not in (None, *kept)}
    made["tasks"] = {name: task for name, task in body["tasks"].items() if name not in lost}
    _drop_from_model(made, kept)
    _drop_from_statistics(made, lost)
    _drop_from_evaluation(made, kept)
    if "phases" in made.get("training", {}):
        _drop_from_phases(made, gone=set(body["modalities"]) - set(kept), lost=lost)
    return made


def _drop_from_model(body: Body, kept: Collection[str]) -> None:
    model = body.get("model", {})
    for key in ("shares", "levels"):
        if key in model:
            model[key] = {name: value for name, value in model[key].items() if name in kept}
    if model.get("guide") not in (None, *kept):
        del model["guide"]


def _drop_from_statistics(body: Body, lost: Collection[str]) -> None:
    if (plan := body.get("statistics")) is None:
        return
    named = {"modalities": set(body["modalities"]), "tasks": set(body["tasks"]) - set(lost)}
    for key, known in named.items():
        if key in plan:
            plan[key] = [name for name in plan[key] if name in known]
    if not any(plan.get(key) for key in named):
        del body["statistics"]


def _drop_from_evaluation(body: Body, kept: Collection[str]) -> None:
    """What is hidden or grouped; of one modality that headline results see, none can be hidden or lacking."""
    plan, every = body.get("evaluation", {}), list(body["modalities"].values())
    headline = [modality for modality in every if not modality.get("leaky")] or every
    if "hidden_of" in plan:
        plan["hidden_of"] = [name for name in plan["hidden_of"] if name in kept]
    if len(headline) < 2 or plan.get("hidden_of") == []:
        plan.pop("hidden", None)
        plan.pop("hidden_of", None)
    if len(headline) < 2:
        body.get("training", {}).pop("unpaired", None)
        if "subgroups" in plan:
            plan["subgroups"] = [name for name in plan["subgroups"] if name != PAIRED]
    fields = {field for modality in headline for field in modality.get("fields", ())}
    if "feature_groups" in plan:
        left = {name: [f for f in group if f in fields] for name, group in plan["feature_groups"].items()}
        plan["feature_groups"] = {name: group for name, group in left.items() if group}


def _drop_from_phases(body: Body, *, gone: Collection[str], lost: Collection[str]) -> None:
    """Parts of what is dropped; a phase that has nothing left goes, with its rounds."""
    kinds = {plan.get("kind") for plan in body["modalities"].values()}
    segmented = any("modality" in task for task in body["tasks"].values())
    matter = {"segmentation": segmented, "masked": bool(kinds & set(SERIES))}
    kept = []
    for phase in body["training"]["phases"]:
        parts = [part for part in phase.get("trains", ()) if not any(_of(part, gone, lost))]
        if ("trains" in phase and not parts) or not matter.get(phase.get("objective", "tasks"), True):
            body["training"]["rounds"] -= phase["rounds"]
        else:
            kept.append(phase | ({"trains": parts} if "trains" in phase else {}))
    body["training"]["phases"] = kept


def _of(part: str, gone: Collection[str], lost: Collection[str]) -> Iterator[bool]:
    """Whether a part (``encoders.ecg``, ``heads.death@ecg``) is of a dropped modality, of a dropped task."""
    group, _, name = part.partition(".")
    owner = name.partition(".")[0]
    yield group in ("encoders", "adapters") and owner in gone
    task, _, modality = owner.partition("@")
    yield group == "heads" and (task in lost or modality in gone)
