"""What models make of parts of their inputs: attention to modalities, and what groups of fields are worth."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fl_server.comparison.index import Index
from fl_server.comparison.numbers import FEDERATED, Told, mean
from fl_server.comparison.result import Part, PartKind, Role
from fl_server.comparison.words import title_of
from fl_server.report import view
from fl_server.report.forest import Axis, Forest, Group, Line, around_zero
from fl_shared.metrics.table import METRICS, MetricName
from fl_shared.results import Attention, Importance, Results

DECIMALS = 2  # that sites tell of attention


class Asked(NamedTuple):
    """Where a part belongs, but for variant and mode; ``metric`` None: of attention. ``n``: as many at least."""

    kind: PartKind
    role: Role
    site: str
    task: str
    label: str
    metric: MetricName | None
    name: str
    n: int | None


def of_cell(results: Iterable[Results], roles: Mapping[str, Role]) -> dict[Asked, Told]:
    """The parts of one cell; of several studies (each training site alone) the mean over their models."""
    groups: defaultdict[Asked, list[Told]] = defaultdict(list)
    for one in results:
        for a in one.attention:
            if a.model == FEDERATED and a.site in roles:
                asked = Asked("attention", roles[a.site], a.site, "", "", None, a.modality, a.n)
                groups[asked].append(Told(a.value, a.ci_low, a.ci_high, a.note))
        for i in one.importance:
            if i.model == FEDERATED and i.site in roles:
                asked = Asked("importance", roles[i.site], i.site, i.task, i.label, i.metric, i.group, i.n)
                groups[asked].append(Told(i.value, i.ci_low, i.ci_high, i.note))
    return {asked: _mean(asked, told) for asked, told in groups.items()}


def over_seeds(by_seed: Sequence[Mapping[Asked, Told]], *, variant: str, mode: str) -> Iterator[Part]:
    """The parts of one variant in one mode: means of values and of the ends of their intervals."""
    for asked in dict.fromkeys(asked for told in by_seed for asked in told):
        every = [of[asked] for of in by_seed if asked in of]
        seeds = sum(one.value is not None for one in every)
        told = _mean(asked, every)
        yield Part(**asked._asdict(), variant=variant, mode=mode, seeds=seeds, **told._asdict())


def _mean(asked: Asked, every: Sequence[Told]) -> Told:
    return mean(
        every, (lambda share: round(share, DECIMALS)) if asked.metric is None else METRICS[asked.metric].rounded
    )


def forests(index: Index, kind: PartKind) -> list[Forest]:
    """A picture a site of the role that judges, mode, task and label: a group a variant, a line a part."""
    mine = [part for part in index.result.parts if (part.kind, part.role) == (kind, index.default_role)]
    places = dict.fromkeys((part.site, part.mode, part.task, part.label) for part in mine)
    return [
        _forest(index, [part for part in mine if (part.site, part.mode, part.task, part.label) == place])
        for place in places
    ]


def _forest(index: Index, parts: Sequence[Part]) -> Forest:
    first, result = parts[0], index.result
    groups = [
        Group(
            name=title_of(result, "variant", variant),
            lines=tuple(Line(name=p.name, told=_told(p), kind=p.role) for p in parts if p.variant == variant),
        )
        for variant in dict.fromkeys(part.variant for part in parts)
    ]
    where = f"{title_of(result, 'mode', first.mode)}, at {first.site}"
    if first.metric is None:
        caption, axis = f"Attention to each modality: {where}", Axis(low=0.0, high=1.0)
    else:
        of = ", ".join(filter(None, (first.task, first.label.replace("macro", ""))))
        caption = f"{of}: {METRICS[first.metric].title} lost without a group of fields: {where}"
        axis = around_zero([line for group in groups for line in group.lines])
    return Forest(caption=caption, groups=tuple(groups), axis=axis, first="Variant")


def _told(part: Part) -> view.Told:
    """As the site told it: what a forest is drawn of."""
    asked = {"site": part.site, "role": part.role, "model": FEDERATED, "n": part.n, "note": part.note}
    value = {"value": part.value, "ci_low": part.low, "ci_high": part.high}
    if part.metric is None:
        return Attention.model_validate(asked | value | {"modality": part.name})
    task = {"task": part.task, "label": part.label, "metric": part.metric, "group": part.name}
    return Importance.model_validate(asked | value | task)
