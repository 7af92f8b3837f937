"""Writes a phantom's labels as a NIfTI label map on the grid of its cine."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np

from fl_sites.synthetic.cine import Cine
from fl_sites.synthetic.hospitals import Scanner

DESCRIPTION = b"SYNTHETIC 0 background 1 LV cavity 2 myocardium 3 scar"


def write_mask(path: Path, cine: Cine, scanner: Scanner) -> None:
    """Write ``path`` (``.nii.gz``): labels (columns, rows, slices, phases) uint8, as every DICOM converter orders them.

    The affine leads to the patient coordinates of NIfTI (right, anterior, superior); DICOM's first two point the
    other way.
    """
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = scanner.spacing * cine.row, scanner.spacing * cine.column
    lps[:3, 2], lps[:3, 3] = cine.positions[1] - cine.positions[0], cine.positions[0]
    image = nibabel.Nifti1Image(np.transpose(cine.labels, (3, 2, 1, 0)), np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps)
    image.header.set_zooms((scanner.spacing, scanner.spacing, scanner.gap, cine.interval / scanner.phases))
    image.header.set_xyzt_units("mm", "msec")
    image.header["descrip"] = DESCRIPTION
    path.write_bytes(gzip.compress(image.to_bytes(), mtime=0))  # no time of writing: the same bytes in every run
