"""The groups of patients that results are told of besides all: their names, in a study and in the results."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from fl_shared.concepts import Concept, concept, names
from fl_shared.plans import EvaluationPlan, ModalityPlan

AGE, PAIRED = "age", "paired"
PAIRS = ("yes", "no")  # whether a row has every modality of the headline's
RESERVED = frozenset({PAIRED, "hidden"})  # no names for a site's own variables
GROUP_NAME = re.compile(r"[a-z0-9][a-z0-9_]{0,31}")  # of a group that a site defines


def grouped_concept(variable: str) -> Concept | None:
    """The categorical concept of this name, if there is one."""
    found = concept(variable) if variable in names() else None
    return found if found is not None and found.codes else None


def concept_words(of: Concept) -> dict[float, str]:
    """Number of a categorical concept -> its word; of synonyms the first."""
    return {number: word for word, number in reversed(of.codes.items())}


def age_groups(edges: Sequence[int]) -> tuple[str, ...]:
    """Names of the groups by age in completed years: ``0-64``, ``65-79``, ``80+``."""
    between = (f"{first}-{after - 1}" for first, after in pairwise((0, *edges)))
    return (*between, f"{edges[-1]}+") if edges else ()


def group_fits(variable: str, group: str, plan: EvaluationPlan) -> bool:
    """Whether a variable can have a group of this name."""
    if variable == AGE:
        return group in age_groups(plan.age_edges)
    if variable == PAIRED:
        return group in PAIRS
    known = grouped_concept(variable)
    return group in concept_words(known).values() if known is not None else bool(GROUP_NAME.fullmatch(group))


def headline_modalities(modalities: Mapping[str, ModalityPlan]) -> tuple[str, ...]:
    """Those that do not state the diagnosis; all of them, where each does."""
    return tuple(name for name, plan in modalities.items() if not plan.leaky) or tuple(modalities)


def grouped_fields(modalities: Mapping[str, ModalityPlan]) -> dict[str, tuple[str, ...]]:
    """Modality of the headline's -> its fields, of tables and events: what feature groups are made of."""
    named = headline_modalities(modalities)
    return {name: modalities[name].fields for name in named if modalities[name].kind in ("table", "events")}


def hidden_name(share: float) -> str:
    """Of the judging with this share of the inputs hidden."""
    return f"hidden={share:g}"


def subgroup_fits(subgroup: str, plan: EvaluationPlan) -> bool:
    """Whether the study asks for results under this name."""
    variable, _, group = subgroup.partition("=")
    if variable in plan.subgroups:
        return group_fits(variable, group, plan)
    return subgroup in {"", *map(hidden_name, plan.hidden)}
