"""Table 1 of the judged samples, and how they came about; by the rules of the data check (`checking.disclosure`).

Shares are told, no counts, and so coarse that no count follows: the numbers of samples stand beside the metrics. A
share of a part, or of what is left of the whole, is withheld where fewer than 10 patients stand behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fl_client.data.checking.characteristics import rounded
from fl_client.data.checking.disclosure import Group, Teller, coarse_share
from fl_client.data.cohort import Cohort
from fl_client.training.subgroups import groups_of
from fl_shared.asked import described_fields
from fl_shared.metrics.disclosure import MIN_CELL
from fl_shared.results import Described
from fl_shared.site import Site
from fl_shared.study import TIMED, Study, TaskPlan
from fl_shared.subgroups import concept_words, grouped_concept

SUPPRESSED = f"suppressed: fewer than {MIN_CELL} patients"
TOLERANCE = 1e-3  # of a code that went through float32
Statistic = Literal["share", "mean", "sd", "median", "q1", "q3", "missing"]
Inside = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Table:
    """Tells of the judged samples; ``patient`` (n,) of each."""

    site: str
    patient: NDArray[np.int64]

    def share(self, variable: str, inside: Inside, *, strict: bool = False) -> Described:
        """The share of all samples; ``strict``: "all of them" is not told either."""
        return self._told(variable, "", "share", self._share(inside, self._all(), strict=strict))

    def missing(self, variable: str, known: Inside) -> Described:
        """The share of samples of which a variable is not known."""
        value = 0.0 if known.all() else self._share(~known, self._all())
        return self._told(variable, "", "missing", value)

    def numbers(self, variable: str, values: NDArray[np.float64]) -> Iterator[Described]:
        """Mean, standard deviation (n - 1), median and quartiles of what is not NaN, to three digits."""
        known = np.isfinite(values)
        yield self.missing(variable, known)
        enough = self._teller.enough(known)
        found = values[known]
        numbers: dict[Statistic, float | None] = {name: None for name in ("mean", "sd", "median", "q1", "q3")}
        if enough:
            q1, median, q3 = np.quantile(found, [0.25, 0.5, 0.75])
            numbers = {"mean": found.mean(), "sd": found.std(ddof=1), "median": median, "q1": q1, "q3": q3}
        for name, number in numbers.items():
            yield self._told(variable, "", name, None if number is None else rounded(float(number)))

    def categories(self, variable: str, parts: Mapping[str, Inside], *, exclusive: bool = True) -> Iterator[Described]:
        """The share of each category of the samples that are in any, or (not exclusive) of all known ones."""
        known = np.logical_or.reduce([*parts.values()])
        yield self.missing(variable, known)
        whole = Group(n=int(known.sum()), told=int(known.sum()), rows=known)
        told = self._teller.parts(whole, parts, strict=True)
        for name, part in told.items():
            share = None if part.exact is None else coarse_share(part.n, whole.n)
            yield self._told(variable, name, "share", None if share is None else share / 100)

    def events(self, variable: str, category: str, inside: Inside, known: Inside) -> Described:
        """The share of an outcome among the samples of which it is known."""
        whole = Group(n=int(known.sum()), told=int(known.sum()), rows=known)
        return self._told(variable, category, "share", self._share(inside & known, whole, strict=True))

    def _share(self, inside: Inside, whole: Group, *, strict: bool = False) -> float | None:
        part = self._teller.group(inside, whole, strict=strict)
        share = None if part.exact is None else coarse_share(part.n, whole.n)
        return None if share is None else share / 100

    def _all(self) -> Group:
        n = len(self.patient)
        return Group(n=n, told=n, rows=np.ones(n, dtype=bool))

    @property
    def _teller(self) -> Teller:
        return Teller(patient=self.patient, local=False)

    def _told(self, variable: str, category: str, statistic: Statistic, value: float | None) -> Described:
        note = SUPPRESSED if value is None else ""
        return Described(
            site=self.site, variable=variable, category=category, statistic=statistic, value=value, note=note
        )


def described(cohort: Cohort, rows: NDArray[np.int64], *, study: Study, site: Site) -> list[Described]:
    """Table 1: age, sex and the fields of tables, groups of the site, modalities that are there, outcomes."""
    table = Table(site=cohort.site, patient=cohort.patient[rows])
    found: list[Described] = []
    for name in described_fields(study.modalities):
        if name in cohort.traits:
            found += _field(table, name, cohort.traits[name][rows])
    for name in study.evaluation.subgroups:
        if name in site.subgroups and name in cohort.groups:
            mine = cohort.groups[name][rows]
            groups = groups_of(name, study.evaluation, site)
            found += table.categories(name, {group: mine == group for group in groups})
    found += [table.share(f"has {name}", cohort.present[name][rows]) for name in study.modalities]
    for task, plan in study.tasks.items():
        if plan.modality is None:
            found += _outcome(
                table, f"outcome {task}", plan, cohort.targets[task][rows], cohort.target_mask[task][rows]
            )
    return found


def _field(table: Table, name: str, values: NDArray[np.float64]) -> Iterable[Described]:
    known = grouped_concept(name)
    if known is None:
        return table.numbers(name, values)
    parts = {word: np.abs(values - number) < TOLERANCE for number, word in sorted(concept_words(known).items())}
    other = np.isfinite(values) & ~np.logical_or.reduce([*parts.values()])
    return table.categories(name, parts | ({"other": other} if other.any() else {}))


def _outcome(
    table: Table, variable: str, plan: TaskPlan, target: NDArray[np.float32], mask: Inside
) -> Iterator[Described]:
    """How often each label, class or cause occurs among the samples of which that is known; of times, ever."""
    known = np.asarray(mask.all(axis=1))
    if plan.type == "regression":
        yield from table.numbers(variable, np.where(known, target[:, 0], np.nan).astype(np.float64))
    elif plan.type == "multiclass":
        yield from table.categories(variable, {n: known & (target[:, 0] == c) for c, n in enumerate(plan.labels)})
    elif plan.type in TIMED:
        yield table.missing(variable, known)
        causes = plan.labels or ("",)
        parts = {n: known & (target[:, 1] == c) for c, n in enumerate(causes, start=1)}
        parts["none"] = known & (target[:, 1] == 0)
        yield from (
            part for part in table.categories(variable, parts) if part.category in causes and part.statistic == "share"
        )
    else:
        yield table.missing(variable, np.asarray(mask.any(axis=1)))
        for c, label in enumerate(plan.names):
            yield table.events(variable, label, target[:, c] == 1, mask[:, c])
