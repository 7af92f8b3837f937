"""What a study asks a site to tell of a judged model: names, ranges and roundings of every part of `Findings`.

The gate of a site and the coordinator read it; what it does not name is refused. What a number would tell of few
patients is for the gate alone, which knows the rules for small cells (`fl_shared.metrics.disclosure`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal

from fl_shared import concepts
from fl_shared.counts import primary, subsets
from fl_shared.metrics.curves import curve_fits
from fl_shared.metrics.table import METRICS, MetricName, fits, metrics_of
from fl_shared.results import (
    Attention,
    Contribution,
    Curve,
    Described,
    Difference,
    EvaluationRow,
    Findings,
    Flow,
    Importance,
)
from fl_shared.study import ModalityPlan, Study, TaskPlan
from fl_shared.subgroups import AGE, RESERVED, group_fits, grouped_concept, headline_modalities, subgroup_fits

Compared = Difference | Contribution | Importance
Judged = EvaluationRow | Curve | Compared
STAGES = ("rows", "index_time_ok", "after_outcome_check", "usable", "judged")
"""Of the flow, each within the one before."""
SET_ASIDE = re.compile(r"set aside: (?:([a-z][a-z0-9_]*): )?([a-z][a-z0-9]*(?:-[a-z0-9]+){0,7})")
"""``set aside: index-time-in-future``, ``set aside: cine: undecodable``: rows, or a modality of them."""
NUMBERS = frozenset({"mean", "sd", "median", "q1", "q3"})
SHARES = frozenset({"share", "missing"})
DIGITS, SHARE_DIGITS = 3, 2  # of numbers and of shares in Table 1
TESTS = frozenset({"", "DeLong", "bootstrap"})


def places_fit(part: Judged, study: Study) -> bool:
    """Whether a part names a task, a label and a set of modalities of the study."""
    plan = study.tasks.get(part.task)
    if plan is None or part.label not in {*plan.told, "macro"}:
        return False
    if isinstance(part, Contribution | Importance):
        return plan.modality is None
    return part.modalities in shown(plan, study)


def shown(plan: TaskPlan, study: Study) -> Iterable[str]:
    """Sets of modalities from which a task is judged; a segmentation sees its own only, told as ``all``."""
    return subsets(study) if plan.modality is None else ("all",)


def row_asked(row: EvaluationRow, study: Study) -> bool:
    """Whether the study asks for such a row: its place, subgroup, metric and range."""
    if not places_fit(row, study) or not subgroup_fits(row.subgroup, study.evaluation):
        return False
    plan = study.tasks[row.task]
    if row.subgroup and (row.modalities != primary(study) or plan.modality is not None):
        return False
    return fits(row.metric, plan.type, (row.value, row.ci_low, row.ci_high))


def curve_asked(curve: Curve, study: Study) -> bool:
    """Whether a task of the study can have such a curve."""
    return places_fit(curve, study) and curve_fits(curve, study.tasks[curve.task])


def comparison_asked(part: Compared, study: Study) -> bool:
    """Whether two models can differ so in a metric of the task, or the study asks what a modality, or a group of
    fields, adds to it.
    """
    return _difference_asked(part, study) if isinstance(part, Difference) else _added_asked(part, study)


def _difference_asked(part: Difference, study: Study) -> bool:
    probable = part.p is None or 0.0 <= part.p <= 1.0
    named = part.model != part.against and part.test in TESTS
    return probable and named and places_fit(part, study) and _gap_fits(part, study.tasks[part.task])


def _added_asked(part: Contribution | Importance, study: Study) -> bool:
    if isinstance(part, Importance):
        asked = part.group in study.evaluation.feature_groups
    else:
        asked = study.evaluation.subsets == "every" and part.modality in study.modalities
    if not asked or not places_fit(part, study):
        return False
    plan = study.tasks[part.task]
    return part.metric == metrics_of(plan.type)[0] and _gap_fits(part, plan)


def attention_asked(part: Attention, study: Study) -> bool:
    """Whether the study asks for what a modality contributes, and this is a part of a whole, of few digits."""
    numbers = [number for number in (part.value, part.ci_low, part.ci_high) if number is not None]
    parts = all(0.0 <= number <= 1.0 and number == round(number, SHARE_DIGITS) for number in numbers)
    named = part.modality in headline_modalities(study.modalities)
    return study.evaluation.subsets == "every" and named and parts and len(numbers) in (0, 3)


def _gap_fits(part: Compared, plan: TaskPlan) -> bool:
    """Whether numbers can be differences of the metric."""
    metric = METRICS[part.metric]
    numbers = [number for number in (part.value, part.ci_low, part.ci_high) if number is not None]
    return plan.type in metric.types and all(abs(number) <= metric.high - metric.low for number in numbers)


def described_asked(part: Described, study: Study) -> bool:
    """Whether the study asks for such a number of Table 1, and it is a share or a number of few digits."""
    if not study.evaluation.described or part.statistic not in _statistics(part, study):
        return False
    if part.value is None:
        return True
    if part.statistic in SHARES:
        return 0.0 <= part.value <= 1.0 and part.value == round(part.value, SHARE_DIGITS)
    return math.isfinite(part.value) and part.value == float(f"{part.value:.{DIGITS}g}")


def described_fields(modalities: Mapping[str, ModalityPlan]) -> tuple[str, ...]:
    """Concepts of Table 1: age, sex, and the fields of a study's tables."""
    tables = (field for plan in modalities.values() if plan.kind == "table" for field in plan.fields)
    return tuple(dict.fromkeys((AGE, "sex", *tables)))


def _statistics(part: Described, study: Study) -> frozenset[str]:
    """What may be told of a variable and category; nothing of one that the study does not have."""
    name, category = part.variable, part.category
    if name in described_fields(study.modalities) and name in concepts.names():
        if grouped_concept(name) is None:
            return (NUMBERS | {"missing"}) if not category else frozenset()
        known = group_fits(name, category, study.evaluation) or category == "other"
        return frozenset({"share"} if known else () if category else {"missing"})
    if name in study.evaluation.subgroups and name not in {*concepts.names(), *RESERVED}:
        return frozenset({"share"} if group_fits(name, category, study.evaluation) else () if category else {"missing"})
    kind, _, named = name.partition(" ")
    if kind == "has" and named in study.modalities:
        return frozenset({"share"} if not category else ())
    plan = study.tasks.get(named) if kind == "outcome" else None
    if plan is None or plan.modality is not None:
        return frozenset()
    if plan.type == "regression":
        return (NUMBERS | {"missing"}) if not category else frozenset()
    labels = plan.labels or ("",)
    return frozenset(({"share"} if category in labels else set()) | ({"missing"} if not category else set()))


def tells_flow(study: Study, site: str) -> bool:
    """Whether a site tells its flow: that counts training patients too, whom a privacy budget must cover."""
    trains = site in study.train_sites and study.privacy.mode != "none"
    return study.evaluation.described and not trains


def flow_asked(part: Flow, study: Study) -> bool:
    """Whether the study asks this site for the flow, and this is a stage of it."""
    if not tells_flow(study, part.site):
        return False
    aside = SET_ASIDE.fullmatch(part.stage)
    return part.stage in STAGES or (aside is not None and (aside[1] is None or aside[1] in study.modalities))


def keys(found: Findings) -> Iterator[tuple[object, ...]]:
    """What each part tells: no two may be equal."""
    for r in found.evaluation:
        yield "row", r.task, r.label, r.modalities, r.model, r.subgroup, r.metric
    for c in found.curves:
        yield "curve", c.task, c.label, c.modalities, c.model, c.kind, c.day, c.group
    for d in found.differences:
        yield "difference", d.task, d.label, d.modalities, frozenset((d.model, d.against)), d.metric
    for s in found.contributions:
        yield "contribution", s.task, s.label, s.model, s.metric, s.modality
    for i in found.importance:
        yield "importance", i.task, i.label, i.model, i.metric, i.group
    for a in found.attention:
        yield "attention", a.model, a.modality
    for one in found.described:
        yield "described", one.variable, one.category, one.statistic
    for stage in found.flow:
        yield "flow", stage.stage


def compared(found: Findings) -> list[Compared]:
    """Differences, contributions and what groups of fields are worth."""
    return [*found.differences, *found.contributions, *found.importance]


def valued(found: Findings) -> list[EvaluationRow | Compared | Attention]:
    """All that tells a value with its interval."""
    return [*found.evaluation, *compared(found), *found.attention]


def roles(found: Findings) -> set[Literal["train", "external"]]:
    """Roles under which a site speaks."""
    return {part.role for part in valued(found)}


def sites(found: Findings) -> set[str]:
    """Whose findings these are."""
    parts = (*valued(found), *found.curves, *found.described, *found.flow)
    return {part.site for part in parts}


def models(found: Findings) -> set[str]:
    """The models that are told of."""
    named = {part.model for part in valued(found)} | {curve.model for curve in found.curves}
    return named | {part.against for part in found.differences}


def rounded(metric: MetricName, numbers: Iterable[float | None]) -> bool:
    """Whether numbers have no more digits than a metric is told with."""
    return all(number is None or number == METRICS[metric].rounded(number) for number in numbers)
