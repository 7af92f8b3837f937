"""How far the surfaces of a drawn and a predicted structure lie apart: the 95th percentile Hausdorff distance in mm.

Surface: voxels of a mask with a neighbour (by a face, the outside of the image too) that is not of it. Oracle in the
tests: MONAI.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects

Floats = NDArray[np.float64]
PERCENTILE = 95.0


def hausdorff_95(predicted: NDArray[Any], drawn: NDArray[Any], spacing: Sequence[float]) -> float:
    """Of two masks of one image, in mm: the greater one of both directions.

    Args:
        predicted: of any number of dimensions; all but 0 is of the structure.
        drawn: of the same shape.
        spacing: mm along each dimension.

    Returns:
        The diagonal of the image where only one mask is empty; NaN where both are.
    """
    one, other = predicted.astype(bool), drawn.astype(bool)
    if not one.any() and not other.any():
        return float("nan")
    if not (one.any() and other.any()):
        return float(np.linalg.norm(np.array(one.shape) * np.asarray(spacing, dtype=np.float64)))
    (box,) = find_objects((one | other).astype(np.uint8))
    surfaces = [mask[box] & ~binary_erosion(mask[box]) for mask in (one, other)]
    far = [_percentile(surfaces[k], surfaces[1 - k], spacing) for k in (0, 1)]
    return max(far)


def _percentile(surface: NDArray[np.bool_], other: NDArray[np.bool_], spacing: Sequence[float]) -> float:
    distance = distance_transform_edt(~other, sampling=tuple(float(mm) for mm in spacing))
    return float(np.percentile(distance[surface], PERCENTILE))


def distances(
    predicted: NDArray[Any], drawn: NDArray[Any], known: NDArray[np.bool_], *, spacing: Sequence[float], structures: int
) -> Floats:
    """HD95 of each structure, frame by frame: the sum in mm and the number of frames, (structures, 2).

    Args:
        predicted: label map (frames, slices, rows, columns), structures numbered from 1.
        drawn: the same as drawn.
        known: (frames, slices) where somebody drew; a frame's image is its slices from the first to the last of them.
        spacing: mm of slices, rows, columns; where one is 0 it is not known, and no frame counts.
        structures: how many.
    """
    found = np.zeros((structures, 2))
    if min(spacing) <= 0:
        return found
    for frame in np.flatnonzero(known.any(axis=1)):
        first, last = np.flatnonzero(known[frame])[[0, -1]].tolist()
        place = (frame, slice(first, last + 1))
        within = known[place][:, None, None]
        for number in range(1, structures + 1):
            far = hausdorff_95((predicted[place] == number) & within, (drawn[place] == number) & within, spacing)
            if np.isfinite(far):
                found[number - 1] += far, 1
    return found
