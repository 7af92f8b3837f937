"""Two runs of the same tasks, metric by metric: the first less the second, with an interval, at each site and over all.

Where an evaluate-only run judged both models on the same patients, its paired differences are taken. Elsewhere a
difference is that of two estimates, and its interval is made of both sites' own intervals as if they stood on different
patients (MOVER: Zou and Donner, Stat Med 2008): on the same held-out patients both estimates rise and fall together, so
it is then too wide.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from fl_server.checkpoint import RunDirectory
from fl_server.launch import STUDY
from fl_server.promotion.source import Run, read_run
from fl_shared.errors import ConsiliumError
from fl_shared.judged import same_tasks
from fl_shared.metrics.random_effects import random_effects
from fl_shared.metrics.synthesis import NORMAL
from fl_shared.metrics.table import METRICS, MetricName
from fl_shared.results import EvaluationRow, Results
from fl_shared.toml import Section

Role = Literal["train", "external"]
SAME = "unpaired: the patients are the same, so this interval is too wide"
OTHERS = "unpaired: not the same patients"
Key = tuple[Role, str, str, str, str, MetricName]
"""Role, task, label, modalities, model, metric."""


class Compared(Section):
    """First less second; ``site`` is '' of the summary over ``sites``."""

    site: str = ""
    sites: tuple[str, ...] = ()
    role: Role
    task: str
    label: str
    modalities: str
    model: str
    metric: MetricName
    first: float | None = None
    second: float | None = None
    value: float
    ci_low: float
    ci_high: float
    p: float | None = None
    paired: bool
    better: Literal["first", "second", ""] = ""
    note: str = ""


class Comparison(Section):
    """What ``fl-server compare`` tells."""

    first: str
    second: str
    hashes: tuple[str, str]
    differs: dict[str, tuple[Any, Any]]
    paired_by: tuple[str, ...]
    sites: tuple[Compared, ...]
    summaries: tuple[Compared, ...]


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """The paired differences of evaluate-only runs; ``turned`` ones are of the second model less the first."""

    folder: str
    results: Results
    turned: bool


def compare(first: Path, second: Path) -> Comparison:
    """Compare two finished runs; evaluate-only runs of both models are looked for beside them.

    Raises:
        ConsiliumError: a run does not verify (exit code 19), or they predict different things (10).
    """
    one, two = read_run(first), read_run(second)
    same_tasks(one.study, two.study)
    found = list(_paired(one, two, folders={first.resolve().parent, second.resolve().parent}))
    sites = [*_of_sites(one, two, found)]
    return Comparison(
        first=one.study.name,
        second=two.study.name,
        hashes=(one.identity, two.identity),
        differs=differing(one, two),
        paired_by=tuple(pairs.folder for pairs in found),
        sites=tuple(sites),
        summaries=tuple(_summaries(sites)),
    )


def differing(one: Run, two: Run) -> dict[str, tuple[Any, Any]]:
    """What is not the same in the two studies: dotted key -> (first, second); and what training spent."""
    flat = [dict(_leaves(run.study.model_dump(mode="json", by_alias=True))) for run in (one, two)]
    keys = dict.fromkeys((*flat[0], *flat[1]))
    found = {key: (flat[0].get(key), flat[1].get(key)) for key in keys if flat[0].get(key) != flat[1].get(key)}
    spent = [run.results.privacy.epsilon_spent for run in (one, two)]
    return found | ({"epsilon spent": (spent[0], spent[1])} if spent[0] != spent[1] else {})


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _paired(one: Run, two: Run, *, folders: Iterable[Path]) -> Iterator[_Pairs]:
    """Finished evaluate-only runs beside the two that judged both models."""
    models = (_model(one), _model(two))
    for path in sorted(path for folder in folders for path in folder.glob(f"*/{STUDY}")):
        try:
            judged = json.loads(path.read_text(encoding="utf-8")).get("judged") or {}
            pair = (judged.get("study"), (judged.get("against") or {}).get("study"))
            if pair in (models, models[::-1]) and RunDirectory(path.parent).results.exists():
                run = read_run(path.parent)
                yield _Pairs(folder=str(path.parent), results=run.results, turned=pair != models)
        except (OSError, ValueError, AttributeError, ConsiliumError):
            continue  # whatever lies there is not asked for


def _model(run: Run) -> str:
    """Identity of the study that trained what a run judged."""
    return run.study.judged.study if run.study.judged is not None else run.identity


def _of_sites(one: Run, two: Run, paired: Sequence[_Pairs]) -> Iterator[Compared]:
    told = {(part.site, _key(part)): part for pairs in paired for part in _turned(pairs)}
    yield from told.values()
    second = {(row.site, _key(row)): row for row in two.results.evaluation if not row.subgroup}
    for row in one.results.evaluation:
        place = (row.site, _key(row))
        if not row.subgroup and place not in told and (other := second.get(place)) is not None:
            split = row.role == "external" or one.study.evaluation.split == two.study.evaluation.split
            made = _unpaired(row, other, same=split and row.n == other.n)
            if made is not None:
                yield made


def _key(part: EvaluationRow | Compared) -> Key:
    return part.role, part.task, part.label, part.modalities, part.model, part.metric


def _turned(pairs: _Pairs) -> Iterator[Compared]:
    for part in pairs.results.differences:
        if part.value is None or part.ci_low is None or part.ci_high is None:
            continue
        value, low, high = part.value, part.ci_low, part.ci_high
        if pairs.turned:
            value, low, high = -value, -high, -low
        yield Compared(
            **part.model_dump(include={"site", "role", "task", "label", "modalities", "model", "metric", "p", "note"}),
            value=value,
            ci_low=low,
            ci_high=high,
            paired=True,
            better=_better(part.metric, low, high),
        )


def _unpaired(one: EvaluationRow, two: EvaluationRow, *, same: bool) -> Compared | None:
    numbers = (one.value, one.ci_low, one.ci_high, two.value, two.ci_low, two.ci_high)
    if any(number is None for number in numbers):
        return None
    a, a_low, a_high, b, b_low, b_high = (float(number) for number in numbers if number is not None)
    rounded, value = METRICS[one.metric].rounded, a - b
    low = rounded(value - math.hypot(max(a - a_low, 0.0), max(b_high - b, 0.0)))
    high = rounded(value + math.hypot(max(a_high - a, 0.0), max(b - b_low, 0.0)))
    return Compared(
        **one.model_dump(include={"site", "role", "task", "label", "modalities", "model", "metric"}),
        first=a,
        second=b,
        value=rounded(value),
        ci_low=low,
        ci_high=high,
        paired=False,
        better=_better(one.metric, low, high),
        note=SAME if same else OTHERS,
    )


def _better(metric: MetricName, low: float, high: float) -> Literal["first", "second", ""]:
    """Whose model is better where the interval leaves 0 out; of calibration, neither more nor less is."""
    about = METRICS[metric]
    if about.ideal is not None or low <= 0.0 <= high:
        return ""
    return "first" if (low > 0) == about.higher_is_better else "second"


def _summaries(sites: Sequence[Compared]) -> Iterator[Compared]:
    """Random-effects summary of the sites' differences, training and external sites apart; from two sites on."""
    groups: defaultdict[Key, list[Compared]] = defaultdict(list)
    for part in sites:
        if part.ci_high > part.ci_low:
            groups[_key(part)].append(part)
    chosen = {key: parts for key, parts in groups.items() if len(parts) > 1}
    if not chosen:
        return
    most = max(len(parts) for parts in chosen.values())
    numbers = np.full((2, len(chosen), most), np.nan)
    for g, parts in enumerate(chosen.values()):
        for k, part in enumerate(parts):
            numbers[:, g, k] = part.value, (part.ci_high - part.ci_low) / (2 * NORMAL)
    effects = random_effects(*numbers)
    for g, (key, parts) in enumerate(chosen.items()):
        role, task, label, modalities, model, metric = key
        rounded, paired = METRICS[metric].rounded, all(part.paired for part in parts)
        value, low, high = (rounded(float(of[g])) for of in (effects.mean, effects.low, effects.high))
        yield Compared(
            sites=tuple(part.site for part in parts),
            role=role,
            task=task,
            label=label,
            modalities=modalities,
            model=model,
            metric=metric,
            value=value,
            ci_low=low,
            ci_high=high,
            paired=paired,
            better=_better(metric, low, high),
            note="" if paired else "of unpaired differences: an approximation",
        )
