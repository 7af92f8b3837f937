"""The Gaussian mechanism on clipped sums (Dwork and Roth 2014, appendix A; DP-SGD: Abadi et al. 2016, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from fl_shared.errors import ConsiliumError, ExitCode


def add_noise(sums: Mapping[str, Tensor], *, sigma: float, clip: float, world: int = 1) -> dict[str, Tensor]:
    """Clipped sums plus N(0, (sigma clip)^2 / world) in every coordinate; the ranks' total has variance (sigma clip)^2.

    Every call keys a fresh counter-based generator (Philox) with 128 bits from the operating system: torch's own CPU
    generator keeps 32 bits of its seed, and the study's seed is known to the coordinator. Noise is drawn and added in
    float64, then rounded once to the sums' dtype.

    Args:
        sums: parameter name -> sum of clipped per-patient gradients of this rank.
        sigma: noise multiplier, positive.
        clip: L2 bound of a patient's gradient.
        world: ranks inside one hospital whose sums are added up before anything is released.

    Raises:
        ConsiliumError: sigma or clip is not positive (exit code 16).
    """
    if not (0 < sigma < math.inf and 0 < clip < math.inf):
        raise ConsiliumError(f"no noise with sigma {sigma} and clip {clip}", code=ExitCode.PRIVACY)
    rng = np.random.Generator(np.random.Philox())
    scale = sigma * clip / math.sqrt(world)
    noised = {}
    for name, total in sums.items():
        noise = torch.from_numpy(rng.standard_normal(tuple(total.shape)) * scale)
        noised[name] = (total.double() + noise.to(total.device)).to(total.dtype)
    return noised
