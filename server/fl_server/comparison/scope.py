"""Where a table's cells lie: which values its dimensions take, and the coordinates that a reader expects of the rest.

A dimension that is neither row nor column and keeps several values splits the table: one for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from fl_server.comparison.index import Index, Place
from fl_server.comparison.plan import FIXED, TablePlan


@dataclass(frozen=True, kw_only=True)
class Scope:
    """A table's dimensions in a result."""

    index: Index
    plan: TablePlan

    @property
    def parts(self) -> list[dict[str, str]]:
        """What is fixed in each table that the plan makes: the values of the dimensions that split it."""
        placed = (*self.plan.rows, *self.plan.columns)
        names = (name for name in (*FIXED, *self.index.result.axes) if name not in placed)
        split = {name: values for name in names if (values := self._split(name, placed))}
        return [dict(zip(split, chosen, strict=True)) for chosen in product(*split.values())]

    def values(self, dimension: str) -> list[str]:
        """Values of a dimension, in the order of ``only``, else of the study."""
        if dimension in self.plan.only:
            return list(self.plan.only[dimension])
        if dimension != "site":
            return list(self.index.values[dimension])
        free = "role" in (*self.plan.rows, *self.plan.columns, *self.plan.only)
        roles = ("external", "train") if free else (self.index.default_role,)
        return [*(site for role in roles for site in self.index.sites(role)), ""]

    def headings(self, dimensions: Sequence[str]) -> list[tuple[str, ...]]:
        """All combinations of the dimensions' values."""
        return list(product(*(self.values(name) for name in dimensions)))

    def place(self, known: Mapping[str, str]) -> Place | None:
        """The coordinates of a cell; None where no variant, or no single one, has these choices."""
        index, variants = self.index, self._variants(known)
        if len(variants) != 1:
            return None
        task = known.get("task") or next(iter(index.result.tasks))
        role = known.get("role") or index.result.sites.get(known.get("site", "")) or index.default_role
        usual = {
            **index.headline(task),
            "variant": variants[0],
            "mode": index.result.modes[0],
            "role": role,
            "site": index.summary_site(role),
            "task": task,
        }
        return tuple({**usual, **known}[name] for name in FIXED)

    def _split(self, name: str, placed: Sequence[str]) -> list[str]:
        """Values of a dimension that is neither row nor column: none where the usual one, or the variant, is enough."""
        axes = self.index.result.axes
        if name in ("task", "mode") or (name in self.plan.only and name != "variant" and name not in axes):
            return self.values(name)
        by_axes = any(axis in placed for axis in axes)
        if name == "variant" and not by_axes:
            return self._variants({})
        return self.values(name) if name in axes and by_axes and "variant" not in placed else []

    def _variants(self, known: Mapping[str, str]) -> list[str]:
        """Variants with these choices among those that the table keeps."""
        axes, only = self.index.result.axes, self.plan.only
        wanted: list[tuple[str, tuple[str, ...]]] = [(axis, (known[axis],)) for axis in axes if axis in known]
        wanted += [(axis, only[axis]) for axis in axes if axis in only]
        named = (known["variant"],) if "variant" in known else only.get("variant", ())
        found = [
            variant.name
            for variant in self.index.result.variants
            if (not named or variant.name in named)
            and all(variant.choices.get(axis) in values for axis, values in wanted)
        ]
        return sorted(found, key=named.index) if named else found
