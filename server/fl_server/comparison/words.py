"""A comparison's names and numbers as people read them."""

from __future__ import annotations

from math import floor, log10

from fl_server.comparison.plan import EPSILON, FEDERATED, LOCAL, POOLED, epsilon_of
from fl_server.comparison.result import ComparisonResult, Contrast, Number
from fl_server.report import view
from fl_server.report.differences import p_value
from fl_server.report.subgroups import HIDDEN
from fl_shared.metrics.table import METRICS, Metric

MODES = {LOCAL: "each site alone", POOLED: "pooled", FEDERATED: "federated"}
DIMENSIONS = {
    "variant": "Variant", "mode": "Training", "role": "Sites", "site": "Site", "task": "Task", "label": "Label",
    "modalities": "Inputs", "subgroup": "Patients", "metric": "Metric",
}  # fmt: skip
_SUBGROUPS = {"": "all patients", "paired=yes": "every input present", "paired=no": "an input missing"}


def title_of(result: ComparisonResult, dimension: str, value: str) -> str:
    """A value of a dimension, in words."""
    match dimension:
        case "variant":
            return next((variant.title for variant in result.variants if variant.name == value), value)
        case "mode":
            return mode_title(value)
        case "role":
            return view.ROLE_NAMES.get(value, value)
        case "site":
            return value or "all sites"
        case "label":
            return {"": "all", "macro": "mean over labels"}.get(value, value)
        case "modalities":
            return _modalities(value)
        case "subgroup":
            return _subgroup(value)
        case "metric":
            return metric_named(value).title
    return result.axes.get(dimension, {}).get(value) or value


def metric_named(name: str) -> Metric:
    """A metric by a name that is only known to be text."""
    return next(metric for key, metric in METRICS.items() if key == name)


def mode_title(mode: str) -> str:
    """``federated, epsilon 8`` of ``epsilon_8``."""
    return MODES.get(mode) or f"federated, epsilon {mode.removeprefix(EPSILON)}"


def hidden_share(subgroup: str) -> float | None:
    """How much is hidden: .5 of ``hidden=0.5``, 0 of all patients as they are; None of other groups."""
    if not subgroup:
        return 0.0
    return float(subgroup.removeprefix(HIDDEN)) if subgroup.startswith(HIDDEN) else None


def mode_place(mode: str) -> tuple[int, float]:
    """Where a mode stands among others: alone, then by epsilon, without privacy, pooled."""
    epsilon = epsilon_of(mode)
    return (1, epsilon) if epsilon is not None else ({LOCAL: 0, FEDERATED: 2, POOLED: 3}[mode], 0.0)


def estimate(part: Number | Contrast) -> view.Estimate:
    """A number of the comparison as the report's forests and words take it."""
    return view.Estimate(metric=part.metric, value=part.value, ci_low=part.low, ci_high=part.high, note=part.note)


def seeds_range(number: Number) -> str:
    """``seeds 0.801–0.823``; nothing of one seed."""
    if number.lowest is None or number.highest is None or number.seeds < 2:
        return ""
    return f"seeds {view.span(number.lowest, number.highest, estimate(number))}"


def _decimals(contrast: Contrast) -> int:
    """Three of a share; of what has a unit, as many as give the largest number three digits."""
    if not METRICS[contrast.metric].in_unit:
        return 3
    largest = max((abs(n) for n in (contrast.value, contrast.low, contrast.high) if n), default=1.0)
    return max(0, 2 - floor(log10(largest)))


def difference(contrast: Contrast) -> str:
    """``+0.020 (+0.004 to +0.036)``."""
    form = f"+.{_decimals(contrast)}f"
    if contrast.value is None:
        return view.NO_VALUE
    if contrast.low is None or contrast.high is None:
        return f"{contrast.value:{form}} (no interval)"
    return f"{contrast.value:{form}} ({contrast.low:{form}} to {contrast.high:{form}})"


def p_holm(contrast: Contrast) -> str:
    """``p 0.012``, adjusted after Holm."""
    return "" if contrast.p_holm is None else f"p {p_value(contrast.p_holm)}"


def listed(names: list[str]) -> str:
    """``A, B and C``; where a name has a comma itself, ``A, a; B, b and C``."""
    between = "; " if any("," in name for name in names) else ", "
    return " and ".join(part for part in (between.join(names[:-1]), *names[-1:]) if part)


def _modalities(value: str) -> str:
    known = {"headline": "headline inputs", "all": "all inputs"}
    return known.get(value) or (value.replace("+", " + ") if "+" in value else f"{value} alone")


def _subgroup(value: str) -> str:
    share = hidden_share(value)
    if share:
        return f"{100 * share:g} % hidden"
    return _SUBGROUPS.get(value) or value.replace("=", ": ", 1)
