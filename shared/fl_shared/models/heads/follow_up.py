"""What all heads of times share: follow-up ends at the horizon, and days fall into the plan's bins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class FollowUp:
    """time (B,) in days, the horizon at most; cause (B,) int64, 0 where censored; known (B,). Unknown rows hold 0."""

    time: Tensor
    cause: Tensor
    known: Tensor


def follow_up(target: Tensor, mask: Tensor, *, horizon: float) -> FollowUp:
    """Read a target (B, 2) = time, event or cause: what happens after the horizon is censored at the horizon.

    A row is known when both its numbers are. An event on the horizon itself counts.
    """
    known = mask.all(1)
    time, cause = torch.where(known[:, None], target, 0.0).unbind(1)  # an unknown row may hold anything
    return FollowUp(time=time.clamp(max=horizon), cause=torch.where(time > horizon, 0.0, cause).long(), known=known)


def bin_of(time: Tensor, edges: Sequence[float]) -> Tensor:
    """Number of the bin (left end, right end] that holds each time (B,); day 0 falls into the first."""
    return torch.searchsorted(time.new_tensor(edges), time).clamp(max=len(edges) - 1)


def start_of(bins: int) -> float:
    """Log odds of a hazard that, the same in every bin, makes the risk by the horizon one half.

    Heads of hazards start there, as an untrained binary head does. Hazards of one half instead would mean certain
    death within a few bins: a loss of ``bins`` log 2 a patient, and clipped steps spent on undoing it.
    """
    return math.log(math.expm1(math.log(2) / bins))
