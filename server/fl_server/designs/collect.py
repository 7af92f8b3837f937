"""From the results of a design's studies to one result: what each site got, the spread over models, the worst site.

Only headline inputs and whole cohorts are compared; subgroups, curves and other inputs stand in each study's own
report. Summaries over sites are those of `fl_shared.metrics.synthesis`.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from fl_server.designs import Design
from fl_server.designs.derive import POOLED, Derived, DesignPlan
from fl_server.designs.result import ArmSummary, DesignResult, DesignStudy, Measure, Spread, Worst
from fl_server.report import view
from fl_shared.metrics.synthesis import SiteEstimate, Summed, summed
from fl_shared.metrics.table import METRICS, MetricName
from fl_shared.results import Results

NOTES = {
    Design.LOSO: (
        "Each site was left out once: its external numbers are of a model that none of its patients trained. The "
        "models share most of their training sites, so their results are not independent of one another.",
        "Internal numbers are of the site's held-out patients, external ones of all its patients.",
    ),
    Design.SEEDS: (
        "Lowest and highest are over seeds: they tell what repeating the training changes, not how uncertain a number "
        "is for want of patients. That is each number's 95 % interval.",
    ),
    Design.SIDES: (
        "All models are judged on the same patients: those held out at training sites, all at external ones.",
        "The pooled model trained on patients of all training sites in one place. That was simulated: it is what "
        "hospitals cannot do, and stands here for comparison.",
    ),
}


@dataclass(frozen=True, kw_only=True, order=True)
class _What:
    """What a number is of, but for where and in which arm."""

    task: str
    label: str
    modalities: str
    model: str
    metric: MetricName


def collect(plan: DesignPlan, found: Mapping[str, Results], *, simulated: bool) -> DesignResult:
    """The design's result so far.

    Args:
        plan: the design.
        found: arm -> results of the studies that have finished.
        simulated: whether the studies ran in the simulation engine.
    """
    parent = plan.parent
    measures = [row for derived in plan.studies if derived.arm in found for row in _measures(derived, found)]
    spreads = list(_spreads(plan, measures))
    over_sites = _over_sites(plan, measures)
    summaries = [ArmSummary(arm=arm, role=role, **_told(what, one)) for (arm, role, what), one in over_sites.items()]
    if plan.design is Design.SEEDS:
        spreads += _spread_summaries(summaries)
    return DesignResult(
        schema=1,
        design=plan.design,
        study=parent.name,
        hash=parent.identity,
        system=parent.model.system,
        synthetic=parent.synthetic,
        simulated=simulated,
        privacy=parent.privacy.mode,
        package=version("consilium"),
        tasks={name: task.told for name, task in parent.tasks.items()},
        types={name: task.type for name, task in parent.tasks.items()},
        sites={name: site.role for name, site in sorted(parent.sites.items())},
        studies=tuple(_study(derived, found.get(derived.arm)) for derived in plan.studies),
        measures=tuple(measures),
        spreads=tuple(spreads),
        summaries=tuple(summaries),
        worst=tuple(_worst(plan, spreads, over_sites)),
        notes=tuple(_notes(plan, found)),
    )


def _measures(derived: Derived, found: Mapping[str, Results]) -> Iterator[Measure]:
    results = found[derived.arm]
    for row in results.evaluation:
        if not row.subgroup and row.modalities == view.headline_modalities(results, row.task):
            yield Measure(arm=derived.arm, **row.model_dump())


def _study(derived: Derived, results: Results | None) -> DesignStudy:
    study = derived.study
    return DesignStudy(
        arm=derived.arm,
        name=study.name,
        hash=study.identity,
        state="waiting" if results is None else "finished",
        train=study.train_sites,
        external=study.external_sites,
        pools=dict(derived.pools),
        seed=study.seed,
        seconds=None if results is None else sum(entry.seconds for entry in results.rounds),
        epsilon_spent={} if results is None else results.privacy.epsilon_spent,
        notes=() if results is None else results.notes,
    )


def _what(row: Measure | ArmSummary) -> _What:
    return _What(task=row.task, label=row.label, modalities=row.modalities, model=row.model, metric=row.metric)


def _spreads(plan: DesignPlan, measures: Sequence[Measure]) -> Iterator[Spread]:
    """Over seeds; of a site that is left out once, over the models that it helped to train."""
    if plan.design is Design.SIDES:
        return
    groups: defaultdict[tuple[_What, str, str], list[float]] = defaultdict(list)
    for row in measures:
        if row.value is not None and (plan.design is Design.SEEDS or row.role == "train"):
            groups[_what(row), row.role, row.site].append(row.value)
    for (what, role, site), values in groups.items():
        yield _spread(what, role, site, values)


def _spread_summaries(summaries: Sequence[ArmSummary]) -> Iterator[Spread]:
    """Of the summaries over sites, over seeds: under the site ''."""
    groups: defaultdict[tuple[_What, str], list[float]] = defaultdict(list)
    for one in summaries:
        if one.value is not None:
            groups[_what(one), one.role].append(one.value)
    for (what, role), values in groups.items():
        yield _spread(what, role, "", values)


def _spread(what: _What, role: Any, site: str, values: Sequence[float]) -> Spread:
    rounded = METRICS[what.metric].rounded
    return Spread(
        site=site,
        role=role,
        **asdict(what),
        mean=rounded(statistics.fmean(values)),
        lowest=min(values),
        highest=max(values),
        sd=rounded(statistics.stdev(values)) if len(values) > 1 else None,
        models=len(values),
    )


def _over_sites(plan: DesignPlan, measures: Sequence[Measure]) -> dict[tuple[str, Any, _What], Summed]:
    """(arm, role, what) -> summary over the sites; left-out sites are one arm ''.

    The role is the one in the study from which all were derived, so that all arms sum up the same sites.
    """
    groups: defaultdict[tuple[str, Any, _What], list[SiteEstimate]] = defaultdict(list)
    for row in measures:
        if plan.design is Design.LOSO:
            arm, role = "", row.role
            if role == "train":
                continue  # several models a site: told as spreads
        elif row.site == POOLED and POOLED not in plan.parent.sites:
            continue  # the same patients once more
        else:
            arm, role = row.arm, plan.parent.sites[row.site].role
        told = SiteEstimate(site=row.site, value=row.value, low=row.ci_low, high=row.ci_high)
        groups[arm, role, _what(row)].append(told)
    found = summed([(what.metric, sites) for (_, _, what), sites in groups.items()])
    return dict(zip(groups, found, strict=True))


def _told(what: _What, one: Summed) -> dict[str, Any]:
    return asdict(what) | one.told()


def _worst(
    plan: DesignPlan, spreads: Sequence[Spread], over_sites: Mapping[tuple[str, Any, _What], Summed]
) -> Iterator[Worst]:
    if plan.design is not Design.SEEDS:
        for (arm, role, what), one in over_sites.items():
            if one.worst:
                yield Worst(arm=arm, role=role, **asdict(what), site=one.worst)
        return
    groups: defaultdict[tuple[Any, _What], list[SiteEstimate]] = defaultdict(list)
    for spread in spreads:
        if spread.site:
            fields = {name: getattr(spread, name) for name in _What.__dataclass_fields__}
            told = SiteEstimate(site=spread.site, value=spread.mean, low=None, high=None)
            groups[spread.role, _What(**fields)].append(told)
    for ((role, what), _), one in zip(
        groups.items(), summed([(what.metric, sites) for (_, what), sites in groups.items()]), strict=True
    ):
        yield Worst(arm="", role=role, **asdict(what), site=one.worst)


def _notes(plan: DesignPlan, found: Mapping[str, Results]) -> Iterator[str]:
    yield from NOTES[plan.design]
    if plan.parent.privacy.mode != "none":
        yield (
            f"Every study costs privacy anew: a site that trained in several of the {len(plan.studies)} paid for each, "
            "and its ledger composes them."
        )
    if waiting := [derived.study.name for derived in plan.studies if derived.arm not in found]:
        yield f"Not finished yet, and not in these numbers: {', '.join(waiting)}."
