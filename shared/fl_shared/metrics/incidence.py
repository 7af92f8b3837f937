"""Share of patients with the event by day, in groups of low, middle and high predicted risk, with numbers at risk.

A curve and its numbers at risk tell how many patients have the event, and how many leave for another reason, between
any two days that are told. So days are told that are far enough apart, and groups that are large enough:

- a group has 10 patients or more with the event by the horizon, and 10 without; else it is told with the next one;
- between two told days of a group 10 patients or more have the event: not fewer, and not none;
- a number at risk is 10 or more, and since the last one told nobody left for another reason, or 10 or more did;
- where all groups are told, so is their sum, and other models, modalities and causes tell sums of the same patients: so
  both rules hold for everybody together first, whatever the risks, and groups are told on days that are left;
- on the days of the plan the sum of events is told elsewhere: there, all groups are told or none.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from fl_shared.metrics.risk_groups import joined
from fl_shared.metrics.timeline import BANDS, Course, bands_of
from fl_shared.task import TaskPlan

Floats = NDArray[np.float64]

NAMES = ("low", "middle", "high")
PARTS = 20  # equal parts of the horizon


@dataclass(frozen=True, kw_only=True)
class GroupCourse:
    """One group: its name (of several bands told together ``low+middle``), and by day the share and number at risk."""

    group: str
    days: Floats
    shares: Floats
    at_risk: tuple[int | None, ...]


def days_of(plan: TaskPlan) -> tuple[float, ...]:
    """Days on which a curve may be told: 0, equal parts of the horizon, and the days of the plan."""
    parts = (plan.horizon * k / PARTS for k in range(PARTS + 1))
    return tuple(sorted({round(day, 3) for day in (*parts, *plan.told_at)}))


def group_names() -> tuple[str, ...]:
    """All names that a group may have."""
    return tuple("+".join(NAMES[a:b]) for a in range(3) for b in range(a + 1, 4))


def courses(course: Course, risk: Floats, plan: TaskPlan, *, few: int, of: int = 1) -> list[GroupCourse]:
    """What may be told of the groups by predicted ``risk`` (n,) by the horizon.

    Args:
        course: what became of them; ends at the horizon.
        risk: predicted.
        plan: days and limits of the bands.
        few: patients a step stands for at least.
        of: number of the cause.

    Returns:
        A curve a group, none where all together are too few.
    """
    band, days = bands_of(risk, limits=plan.bands), _Days.of(course, plan, few=few, of=of)

    def counted(bands: Sequence[int]) -> _Counted:
        return _Counted.of(course.of(np.isin(band, bands)), cause=of)

    def enough(bands: list[int]) -> bool:
        group = counted(bands)
        events = group.events(0.0, days.last)
        return events >= few and group.size - events >= few

    bands = joined(len(BANDS), enough)
    while bands and not enough(bands[-1]):  # patients with samples on both sides, in two groups put together
        *rest, end = bands
        bands = [*rest[:-1], rest[-1] + end] if rest else []
    groups = [counted(each) for each in bands]
    common = _chosen(days.planned, *(group.steps(few) for group in groups), ends=[0.0, days.last])
    told = []
    for each, group in zip(bands, groups, strict=True):
        asked = _chosen(days.free, group.steps(few), ends=common)
        told.append(
            GroupCourse(
                group="+".join(NAMES[b] for b in each),
                days=np.array(asked),
                shares=np.append(0.0, group.course.incidences(asked[1:], of=of)),
                at_risk=group.told(asked, allowed=days.at_risk, few=few),
            )
        )
    return told


@dataclass(frozen=True, kw_only=True)
class _Days:
    """What everybody together allows: days of the plan, other days, and days on which numbers at risk may be told."""

    planned: list[float]
    free: list[float]
    at_risk: frozenset[float]
    last: float

    @classmethod
    def of(cls, course: Course, plan: TaskPlan, *, few: int, of: int) -> Self:
        everybody, days = _Counted.of(course, cause=of), days_of(plan)
        last, planned = days[-1], sorted({round(day, 3) for day in plan.told_at} - {days[-1]})
        marks = [0.0, *planned, last]
        whatever = _chosen(days[1:-1], everybody.leavings(few), ends=marks)  # the same for every cause
        free = _chosen([day for day in whatever if day not in marks], everybody.steps(few), ends=marks)
        numbers = everybody.told(free, allowed=frozenset(free), few=few)
        return cls(
            planned=_chosen(planned, everybody.steps(few), ends=[0.0, last])[1:-1],
            free=[day for day in free if day not in marks],
            at_risk=frozenset(day for day, number in zip(free, numbers, strict=True) if number is not None),
            last=last,
        )


_Fits = Callable[[float, float], bool]


def _chosen(days: Sequence[float], *fits: _Fits, ends: list[float]) -> list[float]:
    """``ends``, and those of the ``days`` that fit what is told on both sides of them."""
    told = list(ends)
    for day in days:
        at = bisect(told, day)
        sides = [(told[at - 1], day), *((day, after) for after in told[at : at + 1])]
        if all(fit(*side) for fit in fits for side in sides):
            told.insert(at, day)
    return told


@dataclass(frozen=True, kw_only=True)
class _Counted:
    """Patients of a group. alone: whether each has one sample."""

    course: Course
    cause: int
    size: int
    alone: bool

    @classmethod
    def of(cls, course: Course, *, cause: int) -> Self:
        size = len(np.unique(course.patients))
        return cls(course=course, cause=cause, size=size, alone=size == len(course.patients))

    def _people(self, samples: NDArray[np.bool_]) -> int:
        return int(samples.sum()) if self.alone else len(np.unique(self.course.patients[samples]))

    def events(self, after: float, upto: float) -> int:
        """Patients with the event between two days, the second included; from 0 on, those on day 0 too."""
        course = self.course
        since = (course.time > after) | (after <= 0)
        return self._people((course.cause == self.cause) & since & (course.time <= upto))

    def at_risk(self, day: float) -> int:
        """Patients free of any event and still followed on a day."""
        return self._people((self.course.time > day) | ((self.course.time == day) & (self.course.cause == 0)))

    def steps(self, few: int) -> _Fits:
        """Whether enough have the event between two days."""
        return lambda after, upto: self.events(after, upto) >= few

    def leavings(self, few: int) -> _Fits:
        """Whether enough are no more at risk on the second of two days, for any reason."""
        return lambda after, upto: self.at_risk(after) - self.at_risk(upto) >= few

    def told(self, days: Sequence[float], *, allowed: frozenset[float], few: int) -> tuple[int | None, ...]:
        """Numbers at risk on ``days``, None where one is not ``allowed`` or would tell of few: see the top.

        That on the first day is the group's size; that on the last one goes before those in between.
        """

        def others(after: float, upto: float) -> bool:
            left = (self.size if after == days[0] else self.at_risk(after)) - self.at_risk(upto)
            return left == (events := self.events(after, upto)) or left - events >= few

        enough = [day for day in days[1:] if day in allowed and self.at_risk(day) >= few]
        told = _chosen([*enough[-1:], *enough[:-1]], others, ends=[days[0]])
        numbers = {day: self.size if day == days[0] else self.at_risk(day) for day in told}
        return tuple(numbers.get(day) for day in days)
