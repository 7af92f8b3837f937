"""Looks values of a frame up where DICOM may keep them: in functional groups, or in the file itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from pydicom.dataset import Dataset

Numbers = tuple[float, ...]


class Values:
    """A frame's own functional groups come first, then the shared ones, then the file (DICOM PS3.3 C.7.6.16)."""

    def __init__(self, groups: Sequence[Dataset], top: Dataset) -> None:
        self.groups, self.top = groups, top

    def get(self, keyword: str, macro: str) -> Any:
        """The value, None or "" where there is none. ``macro``: the sequence that holds it in functional groups."""
        for group in self.groups:
            items = group.get(macro) if macro else None
            if items and (value := items[0].get(keyword)) not in (None, ""):
                return value
        return self.top.get(keyword)

    def numbers(self, keyword: str, macro: str, count: int) -> Numbers | None:
        """``count`` finite numbers, None where the file is silent.

        Raises:
            ValueError: there are others.
        """
        value = self.get(keyword, macro)
        if value is None or value == "" or value == []:
            return None
        numbers = tuple(float(x) for x in ([value] if count == 1 else value))
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            raise ValueError(keyword)
        return numbers

    def number(self, keyword: str, macro: str) -> float | None:
        """One finite number."""
        numbers = self.numbers(keyword, macro, 1)
        return None if numbers is None else numbers[0]


def texts(value: Any) -> list[str]:
    """A multi-valued code string, in capitals."""
    if value is None:
        return []
    return [value.upper()] if isinstance(value, str) else [str(part).upper() for part in value]
