"""Two models on the same patients, site by site: the paired difference, its interval and its test."""

from __future__ import annotations

from itertools import groupby

from fl_server.report import view
from fl_server.report.forest import Forest, Group, Line, around_zero
from fl_shared.metrics.table import METRICS
from fl_shared.results import Difference, Results


def forests(results: Results, task: str) -> list[Forest]:
    """A forest a metric, a group a pair of models, label and inputs."""
    place = view.site_order(results)
    mine = [d for d in results.differences if d.task == task and d.site in results.sites]
    found = []
    for name in dict.fromkeys(difference.metric for difference in mine):
        chosen = sorted((d for d in mine if d.metric == name), key=lambda d: (*_pair(d), place.index(d.site)))
        groups = [
            Group(name=_words(results, pair), lines=tuple(_line(difference) for difference in lines))
            for pair, lines in groupby(chosen, key=_pair)
        ]
        better = "right" if METRICS[name].higher_is_better else "left"
        found.append(
            Forest(
                caption=f"{METRICS[name].title}: first model less second; {better} of 0 the first is better",
                groups=tuple(groups),
                axis=around_zero([line for group in groups for line in group.lines]),
                columns=("p", "Test"),
            )
        )
    return found


def _pair(difference: Difference) -> tuple[str, str, str, str]:
    return difference.model, difference.against, difference.label, difference.modalities


def _words(results: Results, pair: tuple[str, str, str, str]) -> str:
    model, against, label, modalities = pair
    about = [part for part in (label, "" if modalities in ("all", "headline") else modalities) if part]
    return f"{model} less {against}" + (f" ({', '.join(about)})" if about else "")


def _line(difference: Difference) -> Line:
    p = view.NO_VALUE if difference.p is None else p_value(difference.p)
    return Line(name=difference.site, told=difference, kind=difference.role, cells=(p, difference.test))


def p_value(p: float) -> str:
    """Three decimals; what would be 0.000 is told as below."""
    return f"{p:.3f}" if p >= 0.001 else "below 0.001"
