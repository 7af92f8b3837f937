"""Designs: several studies derived from one, run one after another, and judged together."""

from __future__ import annotations

from enum import StrEnum


class Design(StrEnum):
    """What is varied.

    ``loso``: every site is external once, while all others train. ``seeds``: the study with other seeds. ``sides``: the
    study beside each training site alone, and beside all their patients pooled; all judged on the same patients.
    """

    LOSO = "loso"
    SEEDS = "seeds"
    SIDES = "sides"
