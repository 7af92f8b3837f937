"""The two exact gates of an audit, on the study's own model and this site's own patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client.privacy.mechanism import add_noise
from fl_shared.models.interface import Batch, take
from fl_shared.models.model import MultimodalModel
from fl_shared.study import Study

if TYPE_CHECKING:
    from torch import Tensor

LEFT_OUT = 8  # patients tried one after another
MOST = 1 + 1e-5  # of the bound: rounding
NOISE_TOLERANCE = 0.05
COORDINATES = 100_000  # of noise at least, so that its measured size is within 1 %


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One exact check: what was measured, what it must not exceed (or leave), and whether it holds."""

    name: str
    measured: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Whether the measurement lies within its bounds."""
        return self.low <= self.measured <= self.high


def quiet(study: Study) -> Study:
    """The study without dropout: its model has the same parameters."""
    shown = {name: plan.model_copy(update={"dropout": 0.0}) for name, plan in study.modalities.items()}
    plain = study.model.model_copy(update={"dropout": 0.0, "modality_dropout": 0.0})
    return study.model_copy(update={"model": plain, "modalities": shown})


def sensitivity(model: MultimodalModel, batch: Batch, rows: NDArray[np.int64], *, clip: float) -> Gate:
    """Largest change of the clipped sum when one patient is left out, over the clip.

    Args:
        model: has entered the round that is tried, and draws nothing (`quiet`), so that only the patient changes.
        batch: all rows of the cohort, one a patient among ``rows``.
        rows: of the patients that are tried.
        clip: L2 bound C.
    """
    from fl_client.privacy.clipping import GhostClipper

    clipper = GhostClipper(model)
    try:
        whole = clipper.clipped_sum(take(batch, rows), clip=clip, micro_batch=len(rows))
        worst = 0.0
        for out in range(min(LEFT_OUT, len(rows))):
            rest = clipper.clipped_sum(take(batch, np.delete(rows, out)), clip=clip, micro_batch=len(rows))
            worst = max(worst, _distance(whole, rest))
    finally:
        clipper.close()
    return Gate(name="one patient moves the clipped sum, over the clip", measured=worst / clip, low=0.0, high=MOST)


def noise(parameters: Mapping[str, Tensor], *, sigma: float, clip: float) -> Gate:
    """Measured standard deviation of the noise over sigma times clip."""
    zeros = {name: torch.zeros_like(p) for name, p in parameters.items()}
    size = sum(p.numel() for p in zeros.values())
    drawn = [
        torch.cat([value.flatten() for value in add_noise(zeros, sigma=sigma, clip=clip).values()]).double()
        for _ in range(-(-COORDINATES // size))
    ]
    measured = float(torch.cat(drawn).square().mean().sqrt()) / (sigma * clip)
    low, high = 1 - NOISE_TOLERANCE, 1 + NOISE_TOLERANCE
    return Gate(name="size of the noise, over what the ledger pays for", measured=measured, low=low, high=high)


def _distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return float(torch.stack([(one[name] - other[name]).double().norm() for name in one]).norm())
