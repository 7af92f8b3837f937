"""A cine, whatever its files: DICOM or NIfTI."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fl_client.data.cine.files import is_nifti
from fl_client.data.cine.grid import Grid
from fl_client.data.cine.nifti import read_nifti
from fl_client.data.cine.sequence import MIN_PHASES
from fl_client.data.cine.stack import read_stack
from fl_client.data.findings import UnreadableError
from fl_shared.site import CineFiles
from fl_shared.study import ModalityPlan


class Cine(Protocol):
    """A short-axis cine: slices from base to apex, phases by time."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Phases, slices, rows, columns."""

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm of rows, columns, slices."""

    @property
    def affine(self) -> NDArray[np.float64] | None:
        """(4, 4), (column, row, slice) -> mm in patient coordinates (LPS); None when unknown."""

    @property
    def repairs(self) -> tuple[str, ...]:
        """What is to be counted."""

    def images(self) -> dict[int, tuple[int, int]]:
        """InstanceNumber -> (phase, slice); empty when images have no numbers."""

    def voxels(self) -> NDArray[np.float32]:
        """Decoded values (phases, slices, rows, columns)."""


def open_cine(root: Path, named: str, mapped: CineFiles) -> Cine:
    """The cine of a sample; the pixels of DICOM files are not decoded yet.

    Raises:
        UnreadableError: it cannot be used.
    """
    if not is_nifti(named):
        return read_stack(root, named, series=mapped.series)
    nifti = read_nifti(root, named)
    if nifti.shape[0] < MIN_PHASES:
        raise UnreadableError("not-cine", f"{named}: {nifti.shape[0]} phase(s), a cine has at least {MIN_PHASES}")
    return nifti


def grid_of(cine: Cine, plan: ModalityPlan) -> Grid:
    """How a cine maps to a study's grid."""
    return Grid.of(
        cine.shape,
        cine.spacing,
        frames=plan.frames,
        slices=plan.slices,
        size=plan.size,
        field_of_view=plan.field_of_view,
    )
