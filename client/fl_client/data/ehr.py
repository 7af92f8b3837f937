"""Mapped columns of the samples table -> scaled concept values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_client.data.findings import Findings
from fl_client.data.table import coded, lines, numbers
from fl_shared.concepts import Concept, concept, convert, names, scale
from fl_shared.errors import Fault, nearest
from fl_shared.site import ColumnMap, Site


@dataclass(frozen=True, kw_only=True)
class Table:
    """values (N, F) float32 scaled by the concepts' fixed ranges, 0 where not observed; observed (N, F) bool."""

    values: NDArray[np.float32]
    observed: NDArray[np.bool_]


def columns_of(site: Site, *, findings: Findings) -> dict[str, str]:
    """Concept -> the site's column; unknown concepts, unknown units and doubly mapped concepts are rejects."""
    chosen: dict[str, str] = {}
    for column, mapped in site.columns.items():
        key = f"columns.{column}"
        if mapped.concept not in names():
            mend = nearest(mapped.concept, names())
            findings.rejects.append(
                Fault(file="site.toml", key=key, value=mapped.concept, problem="unknown concept", mend=mend)
            )
        elif mapped.unit is not None and mapped.unit not in concept(mapped.concept).known_units:
            mend = f"Known for {mapped.concept}: {', '.join(concept(mapped.concept).known_units)} (UCUM)."
            findings.rejects.append(
                Fault(file="site.toml", key=f"{key}.unit", value=mapped.unit, problem="unknown unit", mend=mend)
            )
        elif mapped.concept in chosen:
            mend = f"'{chosen[mapped.concept]}' holds it already: map one of them."
            findings.rejects.append(
                Fault(file="site.toml", key=key, value=mapped.concept, problem="concept is mapped twice", mend=mend)
            )
        else:
            chosen[mapped.concept] = column
    return chosen


def read_table(frame: pd.DataFrame, *, site: Site, fields: Sequence[str], file: str, findings: Findings) -> Table:
    """The study's ``fields`` of every row; a field that the site does not map is nowhere observed.

    Implausible values are set missing and counted, with the unit that would make them plausible; they are never
    converted silently.
    """
    chosen = columns_of(site, findings=Findings())  # its faults were told when the columns were looked for
    values = np.zeros((len(frame), len(fields)), dtype=np.float32)
    observed = np.zeros((len(frame), len(fields)), dtype=bool)
    for f, name in enumerate(fields):
        if name in chosen and chosen[name] in frame:
            column = chosen[name]
            raw = _raw(frame[column], site.columns[column], concept(name), file=file, findings=findings)
            kept = plausible(raw, site.columns[column].unit, concept(name), findings=findings)
            observed[:, f] = np.isfinite(kept)
            values[observed[:, f], f] = scale(kept[observed[:, f]], concept(name))
        elif name not in chosen:
            findings.repairs[f"{name}: not mapped at this site, nowhere observed"] += len(frame)
    return Table(values=values, observed=observed)


def _raw(
    column: pd.Series, mapped: ColumnMap, what: Concept, *, file: str, findings: Findings
) -> NDArray[np.floating[Any]]:
    """Numbers as written, NaN where missing; unknown codes and words in a column of numbers are rejects."""
    if what.codes:
        codes = mapped.codes or what.codes | {f"{value:g}": value for value in what.codes.values()}
        values, wrong = coded(column, codes)
        problem, mend = "unknown code", f"Known: {', '.join(codes)}. Add it under columns.{column.name}.codes."
    else:
        values, limited, wrong = numbers(column)
        from_code, _ = coded(column, mapped.codes)
        values = np.where(np.isnan(from_code), values, from_code)
        wrong = wrong & np.isnan(from_code)
        if limited.any():
            findings.repairs[f"{what.name}: beyond the assay's limit, the limit taken"] += int(limited.sum())
        problem = "not a number"
        mend = f"Write a number with a decimal point, or add it under columns.{column.name}.codes."
    bad = pd.Series(wrong, index=column.index)
    findings.reject_values(
        file=file, key=str(column.name), rows=lines(bad), values=column[bad], problem=problem, mend=mend
    )
    return values


def plausible(
    raw: NDArray[np.floating[Any]], unit: str | None, what: Concept, *, findings: Findings
) -> NDArray[np.float64]:
    """Values in the concept's unit, NaN where implausible."""
    declared = unit or what.unit
    values = convert(raw, declared, what)
    beyond = (values < what.min) | (values > what.max)
    if beyond.any():
        fits = {other: _fit(convert(raw[beyond], other, what), what) for other in what.known_units if other != declared}
        best = max(fits, key=lambda other: fits[other], default="")
        hint = f" (is the unit '{best}', not '{declared}'?)" if best and fits[best][0] else ""
        findings.repairs[f"{what.name}: implausible, set missing{hint}"] += int(beyond.sum())
    return np.where(beyond, np.nan, values)


def _fit(values: NDArray[np.float64], what: Concept) -> tuple[int, int]:
    """How many would be plausible, and how many in the working range (creatinine: 0.9 is plausible in mmol/L too)."""
    plausible = (values >= what.min) & (values <= what.max)
    return int(plausible.sum()), int(((values >= what.low) & (values <= what.high)).sum())
