"""The studies that a design asks for, each a study of its own: name, file and hash, to be approved like any other."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

from fl_server.designs import Design
from fl_shared import toml
from fl_shared.errors import ConsiliumError, ExitCode, Fault, misfit
from fl_shared.study import Study, load_study

LONGEST = 48  # characters of a study's name
POOLED, FEDERATED, ALONE = "pooled", "federated", "alone_"
Body = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Derived:
    """One study of a design.

    Attributes:
        arm: what distinguishes it: the site left out, ``seed_2``, ``federated``, ``alone_va``, ``pooled``.
        study: the study.
        pools: site -> the sites whose patients it holds; only a simulation can run such a study.
    """

    arm: str
    study: Study
    pools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DesignPlan:
    """A design over a study: ``name`` is that of the folder in which its result is collected."""

    design: Design
    parent: Study
    studies: tuple[Derived, ...]

    @property
    def name(self) -> str:
        """``uci_heart_loso``."""
        return f"{self.parent.name}_{self.design}"


def asked(path: Path, design: Design | None, seeds: str) -> DesignPlan:
    """The design of a command's options; raises as `plan_design` and `parse_seeds`."""
    parsed = parse_seeds(seeds, design)
    if design is None:
        raise ConsiliumError("name a --design", code=ExitCode.USAGE)
    return plan_design(path, design, seeds=parsed)


def plan_design(path: Path, design: Design, *, seeds: Sequence[int] = ()) -> DesignPlan:
    """Derive the studies of a design.

    Args:
        path: the study.toml.
        design: what is varied.
        seeds: of `Design.SEEDS`, each once.

    Raises:
        ConsiliumError: the study is invalid, or the design cannot be (10): all faults of all studies at once.
    """
    parent = load_study(path)
    if parent.judged is not None:
        fault = misfit("judged", "a finished model is judged, nothing is trained", "Name the study that trained it")
        message = f"study '{parent.name}' has no design '{design}'"
        raise ConsiliumError(message, code=ExitCode.STUDY, faults=[changed(fault, file=str(path))])
    body = tomllib.loads(path.read_text(encoding="utf-8"))
    match design:
        case Design.LOSO:
            faults, drafts = _left_out(parent, body)
        case Design.SEEDS:
            faults, drafts = _seeded(parent, body, seeds)
        case Design.SIDES:
            faults, drafts = _side_by_side(parent, body)
    studies, wrong = _validated(path, drafts)
    if faults := [*(changed(fault, file=str(path)) for fault in faults), *wrong]:
        message = f"study '{parent.name}' has no design '{design}': {len(faults)} fault(s)"
        raise ConsiliumError(message, code=ExitCode.STUDY, faults=faults)
    return DesignPlan(design=design, parent=parent, studies=studies)


Draft = tuple[str, Body, Mapping[str, tuple[str, ...]]]
"""Arm, what would stand in its file, and who is pooled."""


def _left_out(parent: Study, body: Body) -> tuple[list[Fault], list[Draft]]:
    if len(parent.sites) < 2:
        problem = "nobody is left to train when the only site is left out"
        return [misfit("sites", problem, "Add sites", value=str(len(parent.sites)))], []
    drafts: list[Draft] = []
    for outside in sorted(parent.sites):
        sites = {name: plan | {"role": "train"} for name, plan in body["sites"].items()}
        for plan in sites.values():
            plan.pop("judged", None)
        sites[outside] = {"role": "external"}
        drafts.append((outside, _draft(parent, body, f"loso_{outside}", sites=sites), {}))
    return [], drafts


def _seeded(parent: Study, body: Body, seeds: Sequence[int]) -> tuple[list[Fault], list[Draft]]:
    faults = []
    if len(seeds) < 2:
        faults.append(misfit("seed", "a spread needs two seeds", "Give e.g. --seeds 1,2,3", value=_listed(seeds)))
    if twice := [seed for seed, count in Counter(seeds).items() if count > 1]:
        faults.append(misfit("seed", "given twice", "Give each seed once", value=_listed(twice)))
    drafts: list[Draft] = [
        (f"seed_{seed}", _draft(parent, body, f"seed_{seed}", seed=seed), {}) for seed in dict.fromkeys(seeds)
    ]
    return faults, drafts


def _side_by_side(parent: Study, body: Body) -> tuple[list[Fault], list[Draft]]:
    faults, train = [], parent.train_sites
    if len(train) < 2:
        problem = "one training site alone is the federation"
        faults.append(misfit("sites", problem, "Add training sites", value=str(len(train))))
    if POOLED in parent.sites:
        problem = "the design needs this name for all patients together"
        faults.append(misfit("sites", problem, "Rename the site", value=POOLED))
    outside = {
        name: {"role": "external", "judged": "held_out" if name in train else plan.judged}
        for name, plan in parent.sites.items()
    }
    one: Body = {"rounds": body["rounds"] | {"quorum": 1}}
    drafts: list[Draft] = [(FEDERATED, body, {})]
    for name in train:
        sites = outside | {name: body["sites"][name]}
        drafts.append((f"{ALONE}{name}", _draft(parent, body, f"{ALONE}{name}", sites=sites, **one), {}))
    patients = sum(parent.sites[name].patients for name in train)
    # as many patients a step as all sites together draw
    training = body["training"] | {"batch": parent.training.batch * len(train)}
    sites = {POOLED: {"role": "train", "patients": patients}} | outside
    drafts.append((POOLED, _draft(parent, body, POOLED, sites=sites, training=training, **one), {POOLED: train}))
    return faults, drafts


def _draft(parent: Study, body: Body, suffix: str, **changes: Any) -> Body:
    """What stands in the study's file, but for its name and the changed keys."""
    name = f"{parent.name[: LONGEST - len(suffix) - 1]}_{suffix}"
    made = deepcopy(body) | {"name": name} | changes
    if "sites" in changes:
        made.pop("promotion", None)  # its thresholds are of the parent's own external sites
    return made


def _validated(path: Path, drafts: Iterable[Draft]) -> tuple[tuple[Derived, ...], list[Fault]]:
    """The studies, and every fault once, with the names of all studies that have it."""
    studies: list[Derived] = []
    found: dict[Fault, list[str]] = {}
    for arm, body, pools in drafts:
        try:
            study = toml.validated(body, Study, path=path, code=ExitCode.STUDY)
        except ConsiliumError as error:
            for fault in error.faults:
                found.setdefault(fault, []).append(body["name"])
        else:
            studies.append(Derived(arm=arm, study=study, pools=pools))
    faults = [changed(fault, problem=f"{fault.problem} (in {', '.join(names)})") for fault, names in found.items()]
    return tuple(studies), faults


def _listed(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def parse_seeds(text: str, design: Design | None) -> tuple[int, ...]:
    """``1,2,3``, of the design that repeats; of the others none.

    Raises:
        ConsiliumError: USAGE.
    """
    if text and design is not Design.SEEDS:
        raise ConsiliumError("--seeds belongs to --design seeds", code=ExitCode.USAGE)
    if text and not re.fullmatch(r"\d+(,\d+)*", text):
        raise ConsiliumError(f"--seeds {text}: write whole numbers, e.g. --seeds 1,2,3", code=ExitCode.USAGE)
    return tuple(map(int, text.split(","))) if text else ()
