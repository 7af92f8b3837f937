"""A comparison's result from what has finished, and its file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from fl_server import durable
from fl_server.comparison import parts
from fl_server.comparison.contrasts import contrasts, of_pair
from fl_server.comparison.derive import Cell, Grid
from fl_server.comparison.numbers import Frame, Told, What, of_cell, over_seeds
from fl_server.comparison.pairs import Pair, why_not
from fl_server.comparison.plan import LOCAL, POOLED, epsilon_of
from fl_server.comparison.result import FILE, CellTold, ComparisonResult, Contrast, Number, Part, Role, VariantTold
from fl_shared.counts import primary, subsets
from fl_shared.results import Results

Key = tuple[str, str, int]
"""Variant, mode, seed."""
NOTES = {
    "simulated": "All sites ran on one machine, each with its own service, ledger and rules; no message crossed a "
    "network.",
    LOCAL: "local: each training site's own model. External sites judge each of them, and their numbers are the mean "
    "over these models; internal numbers are of each site's own model on its own held-out patients.",
    POOLED: "pooled: trained on the patients of all training sites in one place, which hospitals cannot do; it stands "
    "here for comparison.",
    "seeds": "Lowest and highest are over seeds: what repeating the training changes, not how uncertain a number is "
    "for want of patients. That is its 95 % interval.",
    "each": "Differences are of one model each; those of mode local are not told.",
    "external": "Differences are of external sites (of the pooled models also of held-out patients of training sites; "
    "no site judges a finished model that it trained), and where the model with more inputs reads all samples of the "
    "other.",
    "nobody": "There is no external site to judge two finished models: no differences but of pooled models.",
    "private": "Each cell with privacy has a ledger of its own: as if it were the only study.",
}


@dataclass(kw_only=True)
class Gathered:
    """What is known of every cell; results are read once."""

    grid: Grid
    cells: dict[Key, CellTold] = field(default_factory=dict)
    numbers: dict[Key, dict[What, Told]] = field(default_factory=dict)
    looked: dict[Key, dict[parts.Asked, Told]] = field(default_factory=dict)
    differences: dict[Key, dict[What, Told]] = field(default_factory=dict)
    unpaired: dict[Key, str] = field(default_factory=dict)
    workers: int = 1
    wall_seconds: float | None = None

    def take(self, cell: Cell, told: CellTold, results: Sequence[Results]) -> None:
        """Keep what came of a cell."""
        key = key_of(cell)
        self.cells[key] = told
        if told.state == "finished":
            self.numbers[key] = of_cell(results, self._frame(cell))
            self.looked[key] = parts.of_cell(results, self._roles)

    def compare(self, pair: Pair, results: Results | None, why: str) -> None:
        """Keep what the sites said of a variant beside the reference, or why there is nothing."""
        key = key_of(pair.variant)
        if results is None:
            self.unpaired[key] = why
        else:
            same = self._frame(pair.reference if pair.turned else pair.variant).same
            fused = [name for name, task in self.grid.parent.tasks.items() if same and task.modality is None]
            self.differences[key] = of_pair(results.differences, self._roles, turned=pair.turned, headline=fused)

    def _frame(self, cell: Cell) -> Frame:
        parent, own = self.grid.parent, self.grid.variants[cell.variant].study
        clean = all(not plan.leaky for plan in own.modalities.values())
        same = primary(parent) == "headline" and "headline" not in subsets(own) and clean
        return Frame(roles=self._roles, same=same)

    @property
    def _roles(self) -> dict[str, Role]:
        return {name: plan.role for name, plan in self.grid.parent.sites.items()}

    def result(self) -> ComparisonResult:
        """The result so far."""
        plan, parent = self.grid.plan, self.grid.parent
        return ComparisonResult(
            schema=1,
            name=plan.name,
            title=plan.title,
            study=parent.name,
            hash=parent.identity,
            synthetic=parent.synthetic,
            package=version("consilium"),
            reference=plan.first,
            axes={
                axis: {name: choice.title or name for name, choice in choices.items()}
                for axis, choices in plan.axes.items()
            },
            modes=plan.modes,
            seeds=plan.seeds,
            tasks={name: task.told for name, task in parent.tasks.items()},
            types={name: task.type for name, task in parent.tasks.items()},
            headline={
                name: "all" if task.type == "segmentation" else primary(parent) for name, task in parent.tasks.items()
            },
            sites={name: site.role for name, site in sorted(parent.sites.items())},
            variants=tuple(self._variants()),
            cells=tuple(self.cells.get(key_of(cell), _waiting(cell)) for cell in self.grid.cells),
            tables=plan.tables,
            workers=self.workers,
            wall_seconds=self.wall_seconds,
            notes=tuple(self._notes()),
        ).model_copy(  # many, and made here: not checked again
            update={
                "numbers": tuple(self._numbers()),
                "contrasts": tuple(self._contrasts()),
                "parts": tuple(self._parts()),
            }
        )

    def _contrasts(self) -> Iterator[Contrast]:
        plan = self.grid.plan
        found = {
            (variant, mode): [self.differences[k] for s in plan.seeds if (k := (variant, mode, s)) in self.differences]
            for mode in plan.modes
            for variant in plan.combined()
        }
        return contrasts(found, against=plan.first)

    def _numbers(self) -> Iterator[Number]:
        for variant, mode, keys in self._trained():
            yield from over_seeds([self.numbers[key] for key in keys], variant=variant, mode=mode)

    def _parts(self) -> Iterator[Part]:
        for variant, mode, keys in self._trained():
            yield from parts.over_seeds([self.looked[key] for key in keys], variant=variant, mode=mode)

    def _trained(self) -> Iterator[tuple[str, str, list[Key]]]:
        """Variant, mode, and the cells of its seeds that have finished."""
        plan = self.grid.plan
        for variant in plan.combined():
            for mode in plan.modes:
                keys = [(variant, mode, seed) for seed in plan.seeds]
                yield variant, mode, [key for key in keys if key in self.numbers]

    def _variants(self) -> Iterator[VariantTold]:
        plan = self.grid.plan
        for name, about in self.grid.variants.items():
            yield VariantTold(
                name=name,
                title=plan.title_of(name),
                choices=dict(plan.crossed().get(name, {})),
                system=about.study.model.system,
                fusion=about.study.model.fusion,
                encoders={m: modality.encoder or "" for m, modality in about.study.modalities.items()},
                native=about.native,
                parameters=about.parameters,
            )

    def _notes(self) -> Iterator[str]:
        plan = self.grid.plan
        yield NOTES["simulated"]
        yield from (NOTES[mode] for mode in (LOCAL, POOLED) if mode in plan.modes)
        if len(plan.seeds) > 1:
            yield NOTES["seeds"]
        if any(epsilon_of(mode) is not None for mode in plan.modes):
            yield NOTES["private"]
        yield from self._of_contrasts()

    def _of_contrasts(self) -> Iterator[str]:
        grid, first = self.grid, self.grid.plan.first
        others = [name for name in grid.variants if name != first]
        if not others:
            return
        if LOCAL in grid.plan.modes:
            yield NOTES["each"]
        if any(mode not in (LOCAL, POOLED) for mode in grid.plan.modes):
            yield NOTES["external"] if grid.parent.external_sites else NOTES["nobody"]
        reasons = {name: why_not(grid, name) for name in others}
        for why in dict.fromkeys(filter(None, reasons.values())):
            names = ", ".join(name for name in others if reasons[name] == why)
            yield f"Not compared with {first} on the same patients, because of {why}: {names}."
        for (variant, mode, seed), why in self.unpaired.items():
            yield f"No difference of {variant} {mode}, seed {seed}, to {first}: {why}"


def key_of(cell: Cell) -> Key:
    """What names a cell."""
    return cell.variant, cell.mode, cell.seed


def _waiting(cell: Cell) -> CellTold:
    """A cell that has not been run."""
    return CellTold(
        variant=cell.variant,
        mode=cell.mode,
        seed=cell.seed,
        state="refused" if cell.refused else "waiting",
        reason=cell.refused,
    )


def write(result: ComparisonResult, folder: Path) -> None:
    """Write ``comparison.json`` atomically; raises ConsiliumError (CHECKPOINT) when the disk refuses."""
    try:
        durable.write_file(folder / FILE, result.model_dump_json(by_alias=True, indent=1).encode())
    except OSError as error:
        raise durable.disk_error(folder / FILE, error) from error


def read(folder: Path) -> ComparisonResult | None:
    """``comparison.json`` of a comparison's folder, or None."""
    path = folder / FILE
    return ComparisonResult.model_validate_json(path.read_bytes()) if path.exists() else None
