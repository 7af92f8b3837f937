"""What a study's statistics say: counts over all sites, in the concepts' own units, and where they come from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fl_shared.toml import Section


class Quantile(Section):
    """The value below which ``share`` of the patients lie. low, high: bounds, from cells, small cells and noise."""

    share: float
    value: float
    low: float
    high: float


class FieldStatistics(Section):
    """The histogram of one field; a count that is not told is null. ``edges`` has one number more than the inner cells.

    A categorical field has ``codes`` and a count each instead: no edges, and nothing lies below or above.
    """

    modality: str
    field: str
    title: str
    unit: str = Field(description="UCUM, of all numbers here")
    log: bool = Field(description="cells are equal on the logarithm")
    edges: tuple[float, ...] = ()
    codes: tuple[float, ...] = ()
    counts: tuple[int | None, ...]
    below: int | None = None
    above: int | None = None
    missing: int | None
    n: int | None = Field(description="patients with a value")
    quantiles: tuple[Quantile, ...] = ()


class LabelStatistics(Section):
    """How many patients have an outcome; bounds of the share are 95 % ones, of patients and noise together."""

    task: str
    label: str
    n: int | None = Field(description="patients whose outcome is known, at the sites that tell")
    events: int | None
    share: float | None
    low: float | None
    high: float | None
    sites: int = Field(description="that tell: without noise a site with a small cell does not")


class CountedSite(Section):
    """A site's part. ``noise`` is the standard deviation of each of its counts, at least."""

    status: Literal["accepted", "rejected", "failed", "absent"]
    reason: str = ""
    noise: float = 0.0


class Statistics(Section):
    """``statistics.json``: one record a training patient, by the sites' own counts, summed."""

    schema_version: Literal[1] = Field(default=1, alias="schema")
    study: str
    identity: str = Field(description="of the study: what a later one names in 'constants_from'")
    package: str
    concepts: str = Field(description="SHA-256 of the concept file")
    synthetic: bool
    provenance: Literal["dp", "local"] = Field(
        description="'dp': paid for in each site's ledger; 'local': exact counts"
    )
    epsilon: float | None
    delta: float | None
    sensitivity: float | None = Field(description="L2, of all counts together, of one patient")
    sites: dict[str, CountedSite]
    fields: tuple[FieldStatistics, ...]
    labels: tuple[LabelStatistics, ...]
    lines: str = Field(description="TOML that a later study may take its constants from")
    notes: tuple[str, ...]
