"""Counts under the Gaussian mechanism: one release of many histograms, noised together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client.privacy.mechanism import add_noise

Counts = Mapping[str, NDArray[np.int64]]


def noised(counts: Counts, *, sigma: float, sensitivity: float) -> dict[str, NDArray[np.int64]]:
    """Whole numbers near the counts: N(0, (sigma sensitivity)^2) is added to every cell, then all are rounded.

    Rounding is post-processing, and it leaves no low bits of floats, which can tell the unnoised number (Mironov 2012).

    Args:
        counts: name -> cells; empty ones are noised like all others.
        sigma: noise multiplier, positive.
        sensitivity: L2 distance of all cells together with and without any one patient.

    Raises:
        ConsiliumError: sigma or sensitivity is not positive (exit code 16).
    """
    sums = {name: torch.from_numpy(cells.astype(np.float64)) for name, cells in counts.items()}
    found = add_noise(sums, sigma=sigma, clip=sensitivity)
    return {name: np.rint(cells.numpy()).astype(np.int64) for name, cells in found.items()}
