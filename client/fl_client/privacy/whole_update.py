"""Site-level privacy: a site's whole update is clipped and noised once a round, so that the unit is the hospital.

McMahan et al. 2018 (Learning differentially private recurrent language models, algorithm 1) with the site in the place
of the user, and the noise at the site. How the update was computed does not matter to the bound.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from fl_client.privacy.mechanism import add_noise
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.wire import Arrays

MARGIN = 1e-9  # relative: a rounded norm must not let an update slip past the bound


def noised_update(update: Arrays, base: Arrays, *, sigma: float, clip: float) -> Arrays:
    """``base`` plus the clipped difference plus N(0, (sigma clip)^2) in every coordinate.

    Args:
        update: the arrays that a site releases, after training.
        base: before it.
        sigma: of this site's own noise.
        clip: L2 bound of the difference, jointly over all arrays.

    Raises:
        ConsiliumError: sigma or clip is not positive, or a counter changed, which noise would not hide (exit code 16).
    """
    counters = [name for name, array in update.items() if not np.issubdtype(array.dtype, np.floating)]
    if any(not np.array_equal(update[name], base[name]) for name in counters):
        raise ConsiliumError(f"{', '.join(counters)}: no noise for counters", code=ExitCode.PRIVACY)
    moved = {n: np.subtract(a, base[n], dtype=np.float64) for n, a in update.items() if n not in counters}
    clipped = {name: torch.from_numpy(part) for name, part in _clipped(moved, clip).items()}
    noised = add_noise(clipped, sigma=sigma, clip=clip)
    released = {name: (base[name] + part.numpy()).astype(update[name].dtype) for name, part in noised.items()}
    return {name: released.get(name, array) for name, array in update.items()}


def _clipped(moved: dict[str, np.ndarray], clip: float) -> dict[str, np.ndarray]:
    """One that is not finite counts as none: were it to stop the release, that would tell of the data."""
    norm = math.sqrt(sum(float((part * part).sum()) for part in moved.values()))
    if not math.isfinite(norm):
        return {name: np.zeros_like(part) for name, part in moved.items()}
    factor = min(1.0, clip / (norm * (1 + MARGIN))) if norm else 1.0
    return {name: part * factor for name, part in moved.items()}
