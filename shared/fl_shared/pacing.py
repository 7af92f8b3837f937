"""How long to wait before asking again: a share of the time waited so far, so that polling costs little either way."""

from __future__ import annotations

SHARE = 0.3


def pause(waited: float, *, shortest: float, longest: float) -> float:
    """Seconds until the next question after ``waited`` seconds: 30 % of them, within bounds."""
    return min(max(shortest, SHARE * waited), longest)
