"""Which finished models are judged beside the reference, and the evaluate-only study in which the sites do it.

A site may not judge a model that it trained (`fl_shared.fitting_finished`), so that contrasts are of external sites;
of the pooled model, which no hospital trained, of the training sites' held-out patients too.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fl_server.comparison.derive import Cell, Grid
from fl_server.comparison.plan import LOCAL, POOLED
from fl_server.comparison.work import Done, tried
from fl_server.designs.derive import LONGEST
from fl_shared.study import Study

TOLD_BEFORE = ("hidden", "hidden_of", "feature_groups", "subgroups", "described")
"""What a judging tells besides differences, and the run of each model has told."""
Sites = dict[str, dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A variant's cell and the reference's, of the same mode and seed.

    turned: the reference is judged, and the variant is what it is compared with: differences are of all samples that
    the judged model can read, and the variant can read more.
    """

    variant: Cell
    reference: Cell
    turned: bool = False

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.variant.title}, beside {self.reference.variant}"

    @property
    def name(self) -> str:
        """Of the study that judges both."""
        names = [cell.studies[0].study.name for cell in (self.variant, self.reference)]
        what = f"vs_{self.variant.variant}_{self.variant.mode}_s{self.variant.seed}"
        digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:8]
        return f"{re.sub('[^a-z0-9_]', '_', what)[: LONGEST - 9]}_{digest}"


def pairs(grid: Grid) -> Iterator[Pair]:
    """All that can be compared: of the same tasks, in a mode with one model."""
    reference = {(c.mode, c.seed): c for c in grid.cells if c.variant == grid.plan.first}
    for cell in grid.cells:
        other = reference[cell.mode, cell.seed]
        told = cell.mode != LOCAL and cell.studies and other.studies and judges(grid.parent, cell.mode)
        if cell.variant != other.variant and told and not why_not(grid, cell.variant):
            own, its = (set(one.studies[0].study.modalities) for one in (cell, other))
            yield Pair(variant=cell, reference=other, turned=its < own)


def why_not(grid: Grid, variant: str) -> str:
    """Why a variant cannot be compared with the reference; empty when it can."""
    own, other = (grid.variants[name].study for name in (variant, grid.plan.first))
    return "other tasks" if own.tasks != other.tasks else ""


def judges(parent: Study, mode: str) -> Sites:
    """The sites that judge, as they stand in the study."""
    found: Sites = {name: {"role": "external", "judged": parent.sites[name].judged} for name in parent.external_sites}
    if mode == POOLED:
        found |= {name: {"role": "external", "judged": "held_out"} for name in parent.train_sites}
    return found


@dataclass(frozen=True, kw_only=True)
class Judging:
    """Both models' runs, who judges, and where; all paths are absolute."""

    name: str
    first: Path
    second: Path
    judges: Sites
    files: Path
    runs: Path
    sites_dir: Path


def judge(work: Judging) -> Done:
    """Let the sites judge both models on the same patients; a failure is told, never raised."""
    return tried(lambda: _judge(work), where=work.runs)


def _judge(work: Judging) -> bool:
    from fl_server.comparison.fleet import run_here
    from fl_server.promotion.judging import prepare_judging
    from fl_server.promotion.source import model_of, read_run
    from fl_shared.judged import judging_study
    from fl_shared.written import write_model

    first, second = (model_of(read_run(path), "federated") for path in (work.first, work.second))
    made = judging_study(first.finished, sites=work.judges, name=work.name, against=second.finished)
    body = made.model_dump(mode="json", by_alias=True)
    told = {key: value for key, value in body["evaluation"].items() if key not in TOLD_BEFORE}
    study = Study.model_validate(body | {"sites": work.judges, "evaluation": told})
    path = work.files / f"{work.name}.toml"
    write_model(path, study, header=f"Evaluate-only: {work.first.name} beside {work.second.name}.")
    folder = prepare_judging(path, first, against=second, runs=work.runs)
    run_here(path, folder=folder, sites_dir=work.sites_dir, pools={})
    return True
