"""What a study wants to know of its judged patients besides the model's inputs: values of Table 1, and subgroups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_client.data.ehr import columns_of, read_table
from fl_client.data.findings import Findings
from fl_client.data.table import coded
from fl_shared.asked import described_fields
from fl_shared.concepts import concept, names, unscale
from fl_shared.site import Site
from fl_shared.study import EvaluationPlan, ModalityPlan
from fl_shared.subgroups import AGE, PAIRS, age_groups, concept_words, grouped_concept, headline_modalities

UNKNOWN = ""
_TOLERANCE = 1e-3  # of an age or a code that went through float32

Values = NDArray[np.float64]
Groups = NDArray[np.str_]


def wanted_fields(plan: EvaluationPlan, modalities: Mapping[str, ModalityPlan]) -> tuple[str, ...]:
    """Concepts that Table 1 and the subgroups need."""
    described = described_fields(modalities) if plan.described else ()
    return tuple(dict.fromkeys(name for name in (*described, *plan.subgroups) if name in names()))


def trait_columns(plan: EvaluationPlan, modalities: Mapping[str, ModalityPlan], site: Site) -> dict[str, str]:
    """Column -> who needs it."""
    chosen = columns_of(site, findings=Findings())
    own = {site.subgroups[name].column: f"subgroup {name}" for name in plan.subgroups if name in site.subgroups}
    return own | {chosen[name]: f"concept {name}" for name in wanted_fields(plan, modalities) if name in chosen}


def read_traits(
    frame: pd.DataFrame, *, site: Site, plan: EvaluationPlan, modalities: Mapping[str, ModalityPlan], findings: Findings
) -> tuple[dict[str, Values], dict[str, Groups]]:
    """Concept -> values (N,), NaN where missing; subgroup variable -> group (N,), `UNKNOWN` where there is none.

    What the site does not map is left out.
    """
    mapped = columns_of(site, findings=Findings())
    fields = tuple(name for name in wanted_fields(plan, modalities) if name in mapped)
    unheard = Findings()  # implausible values of inputs are told when the inputs are read
    table = read_table(frame, site=site, fields=fields, file=site.samples_path.name, findings=unheard)
    findings.rejects += [fault for fault in unheard.rejects if fault not in findings.rejects]
    values = {
        name: np.where(table.observed[:, f], unscale(table.values[:, f], concept(name)), np.nan)
        for f, name in enumerate(fields)
    }
    groups = {name: _grouped(name, values[name], plan) for name in plan.subgroups if name in values}
    own = {name: _own(frame, name, site, findings) for name in plan.subgroups if name in site.subgroups}
    return values, groups | own


def has_every(present: Mapping[str, NDArray[np.bool_]], modalities: Mapping[str, ModalityPlan]) -> NDArray[np.bool_]:
    """(N,) samples that have every modality of the headline's."""
    every: NDArray[np.bool_] = np.all([present[name] for name in headline_modalities(modalities)], axis=0)
    return every


def paired_groups(present: Mapping[str, NDArray[np.bool_]], modalities: Mapping[str, ModalityPlan]) -> Groups:
    """(N,) of the subgroup variable 'paired'."""
    return np.where(has_every(present, modalities), *PAIRS)


def _grouped(name: str, values: Values, plan: EvaluationPlan) -> Groups:
    """Groups by age in completed years, or by the word of a categorical concept."""
    found = np.full(len(values), UNKNOWN, dtype=np.object_)
    known = np.isfinite(values)
    if name == AGE:
        years = np.floor(values[known] + _TOLERANCE)
        groups = np.array(age_groups(plan.age_edges), dtype=np.object_)
        found[known] = groups[np.searchsorted(plan.age_edges, years, side="right")]
    elif (what := grouped_concept(name)) is not None:
        for number, word in concept_words(what).items():
            found[np.abs(values - number) < _TOLERANCE] = word
    return found.astype(np.str_)


def _own(frame: pd.DataFrame, name: str, site: Site, findings: Findings) -> Groups:
    """Groups of a variable that the site defines."""
    mapped = site.subgroups[name]
    found: NDArray[Any] = np.full(len(frame), UNKNOWN, dtype=np.object_)
    if mapped.column in frame:
        numbers = {code: float(mapped.groups.index(group)) for code, group in mapped.codes.items()}
        values, unknown = coded(frame[mapped.column], numbers)
        known = np.isfinite(values)
        found[known] = np.array(mapped.groups, dtype=np.object_)[values[known].astype(np.int64)]
        if n := int(np.asarray(unknown).sum()):
            findings.repairs[f"subgroup {name}: unknown code, in no group"] += n
    return found.astype(np.str_)
