"""From a comparison's plan to its cells, and to the studies of each; what the product refuses for privacy is kept.

A study that is simply wrong stops everything before anything runs, with all faults of all cells at once.
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fl_server.comparison import bodies
from fl_server.comparison.bodies import POOL, Body
from fl_server.comparison.examine import Examined, examine, no_noise_reaches, not_private
from fl_server.comparison.plan import FEDERATED, LOCAL, POOLED, Change, ComparisonPlan, epsilon_of, load_plan
from fl_server.designs.derive import LONGEST, Derived
from fl_shared import toml
from fl_shared.errors import ConsiliumError, ExitCode, Fault, misfit, nearest
from fl_shared.study import Study, load_study

BY_PRIVACY = "privacy.mode"  # the key of what privacy alone forbids (`fl_shared.fitting_privacy`)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One variant in one mode with one seed.

    Attributes:
        studies: one, or of mode local one a training site (``arm``); none when refused.
        refused: why, in words.
    """

    variant: str
    mode: str
    seed: int
    studies: tuple[Derived, ...] = ()
    refused: str = ""

    @property
    def title(self) -> str:
        """``joint federated, seed 1``."""
        return f"{self.variant} {self.mode}, seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """All cells of a comparison, and what each variant turned out to be."""

    plan: ComparisonPlan
    parent: Study
    cells: tuple[Cell, ...]
    variants: Mapping[str, Examined]


def derive(path: Path, *, weights: Mapping[str, Path] | None = None) -> Grid:
    """Read a comparison's file, derive every study and build every variant's model once.

    Args:
        path: the comparison's file.
        weights: name -> local directory of the pretrained weights that the study names.

    Raises:
        ConsiliumError: the plan or a study of it is invalid (10), all faults at once; weights are refused (11).
    """
    plan = load_plan(path)
    where = path.parent / plan.study
    parent = load_study(where)
    faults = [*_unfit(plan, parent)]
    if not faults:
        drafts = _Drafts(plan=plan, parent=parent, body=tomllib.loads(where.read_text(encoding="utf-8")), path=path)
        cells = tuple(drafts.cells())
        faults = drafts.faults()
    if not faults:
        variants, faults = _examined(drafts.told, weights or {})
    if faults:
        message = f"comparison '{plan.name}' cannot be run: {len(faults)} fault(s)"
        raise ConsiliumError(message, code=ExitCode.STUDY, faults=[replace(one, file=str(path)) for one in faults])
    return Grid(plan=plan, parent=parent, variants=variants, cells=tuple(_private(cells, weights or {})))


def _unfit(plan: ComparisonPlan, parent: Study) -> Iterator[Fault]:
    """What no draft is needed for."""
    if parent.judged is not None:
        yield misfit("study", "a finished model is judged, nothing is trained", "Name the study that trained it")
    if POOLED in plan.modes and POOL in parent.sites:
        yield misfit("sites", "mode 'pooled' needs this name for all patients together", "Rename the site", value=POOL)
    if len(set(plan.seeds)) < len(plan.seeds):
        yield misfit("seeds", "one is given twice", "Give each seed once")
    if len(set(plan.modes)) < len(plan.modes):
        yield misfit("modes", "one is given twice", "Give each mode once")


class _Drafts:
    """Validates what would stand in each study's file, and remembers every fault with the variants that have it."""

    def __init__(self, *, plan: ComparisonPlan, parent: Study, body: Body, path: Path) -> None:
        self._plan, self._parent, self._path = plan, parent, path
        self._body = {key: part for key, part in body.items() if key != "promotion"}  # of the study's own sites
        self._faults: dict[Fault, dict[str, None]] = {}
        self.told: dict[str, Study] = {}
        """Variant -> its study without privacy, from which it is described."""

    def faults(self) -> list[Fault]:
        """Each once, with the names of all variants that have it."""
        return [
            replace(fault, problem=f"{fault.problem} (variant {', '.join(names)})")
            for fault, names in self._faults.items()
        ]

    def cells(self) -> Iterator[Cell]:
        """Every variant in every mode with every seed; of faulty ones nothing is complete."""
        for variant, changes in self._plan.combined().items():
            body = self._changed(variant, changes)
            study, refused = self._study(variant, bodies.without_privacy(body))
            if study is None:
                if refused:
                    self._add(variant, [misfit(BY_PRIVACY, refused, "Correct the variant")])
                continue
            self.told[variant] = study
            for mode in self._plan.modes:
                for seed in self._plan.seeds:
                    yield self._cell(variant, mode, seed, body | {"seed": seed})

    def _changed(self, variant: str, changes: Iterable[Change]) -> Body:
        body, changes = self._body, tuple(changes)
        for change in changes:
            body = bodies.merged(body, change.study)
        known = body["modalities"]
        if wrong := [name for change in changes for name in change.only if name not in known]:
            self._add(variant, [misfit("only", "no modality of this name", nearest(wrong[0], known), value=wrong[0])])
            return body
        if not (kept := bodies.chosen(changes, list(known))):
            self._add(variant, [misfit("only", "no modality is left", "Keep one that all of its choices keep")])
            return body
        return bodies.dropped(body, kept)

    def _cell(self, variant: str, mode: str, seed: int, body: Body) -> Cell:
        arms: dict[str, tuple[Body, Mapping[str, tuple[str, ...]]]]
        plain, train = bodies.without_privacy(body), self._parent.train_sites
        if (epsilon := epsilon_of(mode)) is not None:
            changes = self._plan.combined()[variant]
            private = (self._plan.private, *(change.private for change in changes))
            arms = {FEDERATED: (bodies.with_privacy(body, epsilon=epsilon, changes=private), {})}
        elif mode == LOCAL:
            arms = {site: (bodies.alone(plain, self._parent, site), {}) for site in train}
        elif mode == POOLED:
            arms = {POOLED: (bodies.in_one_place(plain, self._parent), {POOL: train})}
        else:
            arms = {FEDERATED: (plain, {})}
        studies, refused = [], ""
        for arm, (draft, pools) in arms.items():
            named = draft | {"name": _name(variant, mode, seed, arm if mode == LOCAL else "", draft)}
            study, why = self._study(variant, named)
            refused = refused or why
            if study is not None:
                studies.append(Derived(arm=arm, study=study, pools=pools))
        if not refused and epsilon is not None:
            refused = next(filter(None, (no_noise_reaches(one.study) for one in studies)), "")
        made = Cell(variant=variant, mode=mode, seed=seed)
        return replace(made, refused=refused) if refused else replace(made, studies=tuple(studies))

    def _study(self, variant: str, body: Body) -> tuple[Study | None, str]:
        """The study, or why privacy alone forbids it; other faults are remembered."""
        try:
            return toml.validated(body, Study, path=self._path, code=ExitCode.STUDY), ""
        except ConsiliumError as error:
            if error.faults and all(fault.key == BY_PRIVACY for fault in error.faults):
                return None, "; ".join(dict.fromkeys(fault.problem for fault in error.faults))
            self._add(variant, error.faults)
            return None, ""

    def _add(self, variant: str, faults: Iterable[Fault]) -> None:
        for fault in faults:
            self._faults.setdefault(fault, {})[variant] = None


def _examined(studies: Mapping[str, Study], weights: Mapping[str, Path]) -> tuple[dict[str, Examined], list[Fault]]:
    """Every variant's model, built once; faults name the variant."""
    found, faults = {}, []
    for variant, study in studies.items():
        try:
            found[variant] = examine(study, weights=weights)
        except ConsiliumError as error:
            if error.code != ExitCode.STUDY:
                raise
            every = error.faults or [misfit("model", error.message, "Correct the variant")]
            faults += [replace(fault, problem=f"{fault.problem} (variant {variant})") for fault in every]
    return found, faults


def _private(cells: Iterable[Cell], weights: Mapping[str, Path]) -> Iterator[Cell]:
    """The cells; those whose model is known to have no exact per-patient gradients are refused."""
    known: dict[str, str] = {}
    for cell in cells:
        if epsilon_of(cell.mode) is None or cell.refused:
            yield cell
            continue
        if cell.variant not in known:
            known[cell.variant] = not_private(cell.studies[0].study, weights=weights)
        why = known[cell.variant]
        yield replace(cell, studies=(), refused=why) if why else cell


def _name(variant: str, mode: str, seed: int, site: str, body: Body) -> str:
    """Of a study: readable, its end a digest of all that it holds, so that what is changed is run anew."""
    what = f"{variant}_{mode}_s{seed}" + (f"_{site}" if site else "")
    text = json.dumps([what, {k: v for k, v in body.items() if k != "name"}], sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{re.sub('[^a-z0-9_]', '_', what)[: LONGEST - 9]}_{digest}"
