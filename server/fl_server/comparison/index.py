"""A comparison's numbers by their coordinates, looked up once for all its tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fl_server.comparison.plan import FIXED
from fl_server.comparison.result import CellTold, ComparisonResult, Contrast, Number, Role
from fl_server.comparison.words import hidden_share
from fl_shared.metrics.table import METRICS, metrics_of

Place = tuple[str, ...]
"""A coordinate of each dimension in the order of `FIXED`: what was trained (variant, mode), then what is judged."""


def place_of(part: Number | Contrast) -> Place:
    """Where a number stands."""
    return tuple(str(getattr(part, name)) for name in FIXED)


def judged(place: Place) -> Place:
    """A place without variant and mode: what is judged, not what was trained."""
    return place[2:]


@dataclass(frozen=True, kw_only=True)
class Index:
    """known: what is judged of any variant. summed: roles with a summary over sites. values: of each dimension."""

    result: ComparisonResult
    numbers: Mapping[Place, Number]
    contrasts: Mapping[Place, Contrast]
    known: frozenset[Place]
    summed: frozenset[str]
    values: Mapping[str, tuple[str, ...]]
    trained: Mapping[tuple[str, str], tuple[CellTold, ...]]

    @property
    def default_role(self) -> Role:
        """External sites judge; internal ones where there are no others."""
        return "external" if "external" in self.result.sites.values() else "train"

    def sites(self, role: str) -> list[str]:
        """Those of a role."""
        return [site for site, its in self.result.sites.items() if its == role]

    def summary_site(self, role: str) -> str:
        """What stands for all sites of a role: their summary, or the only one."""
        mine = self.sites(role)
        return mine[0] if len(mine) == 1 and role not in self.summed else ""

    def headline(self, task: str) -> dict[str, str]:
        """Label, inputs, patients and metric that stand for a task."""
        labels = self.result.tasks[task] or ("",)
        return {
            "label": "macro" if len(labels) > 1 and labels[0] else labels[0],
            "modalities": self.result.headline.get(task, "all"),
            "subgroup": "",
            "metric": metrics_of(self.result.types[task])[0],
        }

    def is_expected(self, place: Place) -> bool:
        """Whether a place may hold a number: some variant has one there, or each should (none may be told yet)."""
        if judged(place) in self.known:
            return True
        at = dict(zip(FIXED, place, strict=True))
        usual = {**self.headline(at["task"]), "site": self.summary_site(at["role"])}
        return all(at[name] == value for name, value in usual.items())


def index_of(result: ComparisonResult) -> Index:
    """Look at every number once."""
    numbers = {place_of(number): number for number in result.numbers}
    trained: dict[tuple[str, str], list[CellTold]] = {}
    for cell in result.cells:
        trained.setdefault((cell.variant, cell.mode), []).append(cell)
    return Index(
        result=result,
        numbers=numbers,
        contrasts={place_of(one): one for one in result.contrasts if one.against == result.reference},
        known=frozenset(map(judged, numbers)),
        summed=frozenset(number.role for number in result.numbers if not number.site),
        values=_values(result),
        trained={key: tuple(cells) for key, cells in trained.items()},
    )


def _values(result: ComparisonResult) -> dict[str, tuple[str, ...]]:
    """All values of each dimension but the sites, in the order of the study; of what only the numbers hold, as told."""
    kinds = dict.fromkeys(result.types.values())
    subgroups = dict.fromkeys(number.subgroup for number in result.numbers if number.subgroup)
    return {
        "variant": tuple(variant.name for variant in result.variants),
        "mode": result.modes,
        "role": tuple(role for role in ("external", "train") if role in result.sites.values()),
        "task": tuple(result.tasks),
        "metric": _ordered(
            (number.metric for number in result.numbers),
            (*(name for kind in kinds for name in metrics_of(kind)), *METRICS),
        ),
        "label": _ordered(
            (number.label for number in result.numbers), (label for labels in result.tasks.values() for label in labels)
        ),
        "modalities": _ordered(
            (number.modalities for number in result.numbers), (*result.headline.values(), "headline", "all")
        ),
        "subgroup": ("", *sorted(subgroups, key=lambda name: hidden_share(name) or 0.0)),
        **{axis: tuple(choices) for axis, choices in result.axes.items()},
    }


def _ordered(values: Iterable[str], first: Iterable[str]) -> tuple[str, ...]:
    """Each once: as in ``first``, then as they come."""
    told = dict.fromkeys(values)
    front = dict.fromkeys(value for value in first if value in told)
    return tuple(front | told)
