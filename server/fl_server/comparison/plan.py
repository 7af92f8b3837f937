"""The file of a comparison: which models are trained on a study's sites, and in which tables they are told.

``study`` holds all that no variant changes. A variant is one choice on every axis, or stands alone under ``variants``;
each is trained in every mode with every seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, field_validator, model_validator

from fl_shared import toml
from fl_shared.errors import ExitCode, nearest
from fl_shared.toml import Name, Section

LOCAL, POOLED, FEDERATED, EPSILON = "local", "pooled", "federated", "epsilon_"
Mode = Annotated[str, StringConstraints(pattern=r"^(local|pooled|federated|epsilon_[0-9]+(\.[0-9]+)?)$")]
"""``local``: each training site alone; ``pooled``: all patients in one place; ``epsilon_8``: federated and private."""

FIXED = ("variant", "mode", "role", "site", "task", "label", "modalities", "subgroup", "metric")
"""What tells numbers apart, beside the axes."""


class Change(Section):
    """What a variant changes in the study.

    ``only``: the modalities that it keeps, all when empty. ``study``: keys of the study, merged into it table by table.
    ``private``: the same, in modes with privacy only.
    """

    title: str = Field(default="", description="in tables; the name when absent")
    only: tuple[Name, ...] = ()
    study: dict[str, Any] = Field(default={})
    private: dict[str, Any] = Field(default={})


class PublishedNumber(Section):
    """A figure of the paper, for the eye: other patients, never a test. Row and column are values, joined by ' / '."""

    row: str
    column: str
    value: float


class TablePlan(Section):
    """A table: which dimensions are its rows and columns, and what is kept.

    Dimensions are the axes and `FIXED`. One that is neither row nor column nor under ``only`` takes what a reader
    expects: external sites (internal ones where there are none), the summary over sites, all patients, the headline
    inputs, label and metric; the only task, variant and mode.
    """

    title: str
    source: str = Field(default="", description="the published table that it follows")
    rows: tuple[Name, ...] = ("variant",)
    columns: tuple[Name, ...] = ("metric",)
    only: dict[Name, tuple[str, ...]] = Field(default={}, description="dimension -> the values that are kept, in order")
    picture: Literal["none", "forest", "heat", "lines"] = "forest"
    published: tuple[PublishedNumber, ...] = ()


class ComparisonPlan(Section):
    """A comparison as written in its file."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    name: Name
    title: str = ""
    study: Path = Field(description="the study.toml, seen from this file")
    seeds: tuple[Annotated[int, Field(ge=0, lt=2**31)], ...] = Field(default=(1,), min_length=1)
    modes: tuple[Mode, ...] = Field(default=(FEDERATED,), min_length=1)
    reference: str = Field(default="", description="the variant with which all others are compared; the first if empty")
    private: dict[str, Any] = Field(default={}, description="keys of the study that modes with privacy change")
    axes: dict[Name, dict[Name, Change]] = Field(default={})
    variants: dict[Name, Change] = Field(default={})
    tables: tuple[TablePlan, ...] = ()

    @field_validator("axes")
    @classmethod
    def _no_axis_is_a_dimension(cls, value: dict[str, Any]) -> dict[str, Any]:
        if taken := [name for name in value if name in FIXED]:
            raise ValueError(f"these names are taken: {', '.join(taken)}. Choose others.")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Self:
        known = self.combined()
        if not known:
            raise ValueError("there is nothing to compare. Write [axes.NAME.CHOICE] or [variants.NAME].")
        if self.reference and self.reference not in known:
            raise ValueError(f"reference '{self.reference}' is no variant. {nearest(self.reference, known)}")
        if clash := [name for name in self.variants if name in self.crossed()]:
            raise ValueError(f"also names of crossed variants: {', '.join(clash)}. Rename them under [variants].")
        dimensions = (*FIXED, *self.axes)
        for table in self.tables:
            for name in (*table.rows, *table.columns, *table.only):
                if name not in dimensions:
                    raise ValueError(f"table '{table.title}': no dimension '{name}'. {nearest(name, dimensions)}")
        return self

    def crossed(self) -> dict[str, Mapping[str, str]]:
        """Variant (its choices joined by '.') -> axis -> choice."""
        if not self.axes:
            return {}
        chosen = product(*self.axes.values())
        return {".".join(names): dict(zip(self.axes, names, strict=True)) for names in chosen}

    def combined(self) -> dict[str, tuple[Change, ...]]:
        """Variant -> its changes, applied one after the other."""
        crossed = {
            name: tuple(self.axes[axis][choice] for axis, choice in choices.items())
            for name, choices in self.crossed().items()
        }
        return crossed | {name: (change,) for name, change in self.variants.items()}

    def title_of(self, variant: str) -> str:
        """Of a variant, for tables: its own, or its choices' one after another."""
        named = self.crossed().get(variant)
        if named is None:
            return self.variants[variant].title or variant
        return ", ".join(self.axes[axis][choice].title or choice for axis, choice in named.items())

    @property
    def first(self) -> str:
        """The variant with which all others are compared."""
        return self.reference or next(iter(self.combined()))


def epsilon_of(mode: str) -> float | None:
    """8.0 of ``epsilon_8``; None without privacy."""
    return float(mode.removeprefix(EPSILON)) if mode.startswith(EPSILON) else None


def load_plan(path: Path) -> ComparisonPlan:
    """Read a comparison's file.

    Raises:
        ConsiliumError: it is invalid (exit code 10), all faults at once.
    """
    return toml.load(path, ComparisonPlan, code=ExitCode.STUDY)
