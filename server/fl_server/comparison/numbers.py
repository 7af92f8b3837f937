"""From the results of a cell's studies to numbers: at each site, summed up over the sites of a role, over seeds."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from fl_server.comparison.plan import POOLED
from fl_server.comparison.result import Number, Role
from fl_shared.metrics.synthesis import SiteEstimate, summed
from fl_shared.metrics.table import METRICS, MetricName
from fl_shared.results import EvaluationRow, Results

FEDERATED = "federated"  # the common model: not the recalibrated or a personal one


class What(NamedTuple):
    """Where a number belongs, but for variant and mode. ``site`` '': the summary over the sites of the role."""

    role: Role
    site: str
    task: str
    label: str
    modalities: str
    subgroup: str
    metric: MetricName


class Told(NamedTuple):
    """A value with its 95 % interval; None where it is withheld."""

    value: float | None
    low: float | None
    high: float | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What numbers are read by: the roles of the sites in the study from which all were derived.

    same: what a variant without leaky inputs calls 'all' is what the others call 'headline'.
    """

    roles: Mapping[str, Role]
    same: bool = False


def of_cell(results: Iterable[Results], frame: Frame) -> dict[What, Told]:
    """The numbers of one cell, with their summaries over sites.

    Of several studies (each training site alone) a site's number is the mean over their models.
    """
    groups: defaultdict[What, list[Told]] = defaultdict(list)
    for one in results:
        for row in one.evaluation:
            if row.model == FEDERATED and (row.site in frame.roles or row.site != POOLED):
                for what in _places(row, frame):
                    groups[what].append(Told(row.value, row.ci_low, row.ci_high, row.note))
    at_sites = {what: mean(told, METRICS[what.metric].rounded) for what, told in groups.items()}
    return at_sites | over_sites(at_sites)


def _places(row: EvaluationRow, frame: Frame) -> Iterator[What]:
    """The role is that of the study from which all were derived: a site judged as external may have trained others."""
    what = What(frame.roles[row.site], row.site, row.task, row.label, row.modalities, row.subgroup, row.metric)
    yield what
    if frame.same and row.modalities == "all":
        yield what._replace(modalities="headline")


def mean(told: Sequence[Told], rounded: Callable[[float], float]) -> Told:
    """Mean of values and of the ends of their intervals, of those that have a value; all notes, each once."""
    note = "; ".join(dict.fromkeys(one.note for one in told if one.note))
    if len(told) == 1:
        return told[0]
    given = [one for one in told if one.value is not None]

    def middle(numbers: Sequence[float | None]) -> float | None:
        known = [number for number in numbers if number is not None]
        return rounded(statistics.fmean(known)) if known and len(known) == len(given) else None

    return Told(
        middle([one.value for one in given]),
        middle([one.low for one in given]),
        middle([one.high for one in given]),
        note,
    )


def over_sites(at_sites: Mapping[What, Told]) -> dict[What, Told]:
    """Random-effects summaries over the sites of a role, under the site ''."""
    groups: defaultdict[What, list[SiteEstimate]] = defaultdict(list)
    for what, told in at_sites.items():
        estimate = SiteEstimate(site=what.site, value=told.value, low=told.low, high=told.high)
        groups[what._replace(site="")].append(estimate)
    made = summed([(what.metric, sites) for what, sites in groups.items()])
    found = {}
    for what, one in zip(groups, made, strict=True):
        fields = one.told()
        found[what] = Told(fields["value"], fields["ci_low"], fields["ci_high"], one.note)
    return found


def over_seeds(by_seed: Sequence[Mapping[What, Told]], *, variant: str, mode: str) -> Iterator[Number]:
    """The numbers of one variant in one mode."""
    everything = dict.fromkeys(what for told in by_seed for what in told)
    for what in everything:
        told = [of[what] for of in by_seed if what in of]
        values = [one.value for one in told if one.value is not None]
        middle = mean(told, METRICS[what.metric].rounded)
        yield Number.model_construct(
            **what._asdict(),
            variant=variant,
            mode=mode,
            value=middle.value,
            low=middle.low,
            high=middle.high,
            lowest=min(values, default=None),
            highest=max(values, default=None),
            seeds=len(values),
            note=middle.note,
        )
