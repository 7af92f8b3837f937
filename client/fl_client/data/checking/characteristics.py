"""Table 1: every concept that the site maps, in the concept's own unit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fl_client.data.checking.disclosure import FEW, WITHHELD, Group, Teller, coarse_share, missing, share
from fl_client.data.checking.histogram import edges, histogram
from fl_client.data.cohort import Cohort
from fl_client.data.ehr import read_table
from fl_client.data.findings import Findings
from fl_client.data.load import Wanted
from fl_client.data.table import read_samples
from fl_shared.concepts import Concept, concept, names, unscale
from fl_shared.site import Site

FIRST = ("age", "sex")
DIGITS = 3
_TOLERANCE = 1e-4  # of a code that went through float32

Item = dict[str, Any]


def table_1(
    cohort: Cohort, *, site: Site, wanted: Wanted, samples: Group, present: Mapping[str, Group], teller: Teller
) -> list[Item]:
    """One entry a concept: title, unit, how many have it, median and quartiles or the count of each value.

    Columns of the samples table are read whether a study wants them or not. Of events the last value in the study's
    window is taken. Numbers have three digits; only the hospital itself sees a least and a greatest value.
    """
    columns = [name for name in dict.fromkeys(m.concept for m in site.columns.values()) if name in names()]
    columns = [name for name in FIRST if name in columns] + [name for name in columns if name not in FIRST]
    tables = {name: plan.fields for name, plan in wanted.modalities.items() if plan.kind == "table"}
    found = []
    for field, values in _columns(cohort, columns, site=site).items():
        wholes = (samples, *(present[name] for name, fields in tables.items() if field in fields))
        found.append(_describe(concept(field), values, source="", wholes=wholes, teller=teller))
    for name, field, values in _events(cohort, wanted):
        wholes = (samples, present[name])
        found.append(_describe(concept(field), values, source=name, wholes=wholes, teller=teller))
    return found


def _columns(cohort: Cohort, fields: list[str], *, site: Site) -> dict[str, NDArray[np.float64]]:
    """Concept -> (N,) values of the cohort's samples, NaN where missing."""
    unheard = Findings()  # what is wrong in them was told when the cohort was read
    frame = read_samples(site.samples_path, encoding=site.encoding, findings=unheard)
    frame = frame.set_index("sample_id", drop=False).loc[list(cohort.sample_ids)].reset_index(drop=True)
    table = read_table(frame, site=site, fields=fields, file=site.samples_path.name, findings=unheard)
    return {name: _unscaled(table.values[:, f], table.observed[:, f], name) for f, name in enumerate(fields)}


def _events(cohort: Cohort, wanted: Wanted) -> Iterator[tuple[str, str, NDArray[np.float64]]]:
    """Modality, concept and each sample's last value (N,), NaN where none was measured."""
    for name, plan in wanted.modalities.items():
        if plan.kind != "events":
            continue
        values, observed = (np.asarray(cohort.inputs[name][key]) for key in ("values", "observed"))
        last = observed.shape[1] - 1 - np.argmax(observed[:, ::-1], axis=1)  # (N, F)
        final = np.take_along_axis(values, last[:, None], axis=1)[:, 0]
        for f, field in enumerate(plan.fields):
            yield name, field, _unscaled(final[:, f], np.asarray(observed[:, :, f].any(axis=1)), field)


def _unscaled(values: NDArray[Any], observed: NDArray[Any], name: str) -> NDArray[np.float64]:
    return np.where(observed, unscale(values, concept(name)), np.nan)


def _describe(
    of: Concept, values: NDArray[np.float64], *, source: str, wholes: tuple[Group, ...], teller: Teller
) -> Item:
    """Of samples (the first of ``wholes``) that are within every one of ``wholes`` when they have a value."""
    observed = teller.group(np.isfinite(values), *wholes)
    known = {"observed": observed.told, "missing": missing(observed, wholes[0])}
    item: Item = {"concept": of.name, "title": of.title, "unit": of.unit, "source": source, **known}
    if of.codes:
        return item | {"values": _values(of, values, observed=observed, teller=teller)}
    bars = histogram(values, of, observed=observed, teller=teller)
    drawn = {"edges": edges(of).tolist(), "bars": [bar.as_json() for bar in bars]}
    return {**item, **quartiles(values, teller=teller), "histogram": drawn}


def quartiles(values: NDArray[np.float64], *, teller: Teller) -> dict[str, float | None]:
    """Median and quartiles of the values that are not NaN; None where too few patients have one."""
    known = np.isfinite(values)
    wanted = {"median": 0.5, "q1": 0.25, "q3": 0.75} | ({"min": 0.0, "max": 1.0} if teller.local else {})
    if not teller.enough(known):
        return dict.fromkeys(wanted)
    return {name: rounded(float(np.quantile(values[known], q))) for name, q in wanted.items()}


def rounded(value: float) -> float:
    """To three digits."""
    return float(f"{value:.{DIGITS}g}")


def _values(of: Concept, values: NDArray[np.float64], *, observed: Group, teller: Teller) -> list[dict[str, Any]]:
    """Each value of a categorical concept: count and per cent of those who have one."""
    words = {number: word for word, number in reversed(of.codes.items())}  # of synonyms the first
    parts = {word: np.abs(values - number) < _TOLERANCE for number, word in sorted(words.items())}
    other = np.isfinite(values) & ~np.logical_or.reduce([*parts.values()])
    parts |= {"other": other} if other.any() else {}
    if observed.exact is not None:
        told = teller.parts(observed, parts, strict=True)
        return [{"value": word, "count": part.told, "percent": share(part, observed)} for word, part in told.items()]
    # where the whole is not told, counts would add up to it: coarse shares of it, of the parts that may be told
    apart = teller.parts(Group(n=observed.n, told=observed.n, rows=observed.rows), parts, strict=True)
    return [
        {"value": word, "count": f"<{FEW}" if part.n < FEW else WITHHELD, "percent": None}
        if part.exact is None
        else {"value": word, "count": None, "percent": coarse_share(part.n, observed.n)}
        for word, part in apart.items()
    ]
