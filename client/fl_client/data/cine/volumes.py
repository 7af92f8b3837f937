"""Volumes of the left ventricle from endocardial masks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_client.data.cine.contours import CAVITY


@dataclass(frozen=True, kw_only=True)
class Ventricle:
    """End-diastolic and end-systolic volume (mL), ejection fraction (%), and the phases they were found in."""

    edv: float
    esv: float
    ef: float
    diastole: int
    systole: int


def ventricle(
    labels: NDArray[np.uint8], annotated: NDArray[np.bool_], *, spacing: tuple[float, float, float]
) -> Ventricle:
    """Sum of discs: area of the cavity (label 1) times the distance of slices, per phase; EF = (EDV - ESV) / EDV.

    Source: Schulz-Menger et al., Standardized image interpretation and post-processing in cardiovascular magnetic
    resonance, 2020 update (J Cardiovasc Magn Reson 22:19): contours on a short-axis stack, summation of slices.

    Args:
        labels: (phases, slices, rows, columns).
        annotated: (phases, slices). Diastole is the largest phase; systole the smallest of those that are drawn on at
            least half as many slices, so that a phase with one stray contour does not count.
        spacing: mm of rows, columns and slices.

    Raises:
        ValueError: fewer than two phases are drawn on enough slices.
    """
    millilitres = (labels == CAVITY).sum(axis=(1, 2, 3)) * np.prod(spacing) / 1000.0
    slices = annotated.sum(axis=1)
    drawn = np.flatnonzero(slices * 2 >= max(1, slices.max()))
    if len(drawn) < 2:
        raise ValueError("the cavity is drawn in fewer than two phases: no ejection fraction")
    diastole, systole = (int(drawn[pick(millilitres[drawn])]) for pick in (np.argmax, np.argmin))
    edv, esv = float(millilitres[diastole]), float(millilitres[systole])
    if edv == 0:
        raise ValueError("no voxel has the label of the cavity")
    return Ventricle(edv=edv, esv=esv, ef=100.0 * (edv - esv) / edv, diastole=diastole, systole=systole)
