"""NIfTI: (column, row, slice, time) on disk -> (phases, slices, rows, columns), turned as a scanner shows them."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from fl_client.data.cine.dicom import MAX_VOXELS
from fl_client.data.cine.files import sample_files
from fl_client.data.cine.groups import APEX
from fl_client.data.findings import UnreadableError

MAX_BYTES = 4 * MAX_VOXELS
DICOM_EXTENSION = 2
TO_MM = {"unknown": 1.0, "meter": 1e3, "mm": 1.0, "micron": 1e-3}
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True, kw_only=True)
class Nifti:
    """values (phases, slices, rows, columns), scaled; affine as in `Stack`, None when the file has no orientation."""

    values: NDArray[Any]
    spacing: tuple[float, float, float]
    affine: NDArray[np.float64] | None
    repairs: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Phases, slices, rows, columns."""
        phases, slices, rows, columns = self.values.shape
        return phases, slices, rows, columns

    def images(self) -> dict[int, tuple[int, int]]:
        """NIfTI numbers no images."""
        return {}

    def voxels(self) -> NDArray[np.float32]:
        """The values."""
        return self.values.astype(np.float32)


def read_nifti(root: Path, named: str) -> Nifti:
    """Read a ``.nii`` or ``.nii.gz`` file of three or four dimensions; a 3-D file has one phase.

    Rows run down or backwards, columns to the left or backwards, slices towards the apex: axes that run the other way
    on disk are turned, so that a converted file looks like its DICOM source, whose axes nearly always run so. Axes are
    never swapped.

    Raises:
        UnreadableError: damaged (the checksum of .nii.gz is verified), beyond a limit, no plain numbers, or carrying a
            DICOM header of its own.
    """
    path = sample_files(root, named)[0]
    try:
        return _parse(_unpacked(path), path.name)
    except UnreadableError:
        raise
    except Exception as error:
        # nibabel raises whatever a damaged header leads to
        raise UnreadableError("nifti-unreadable", f"{path.name}: {type(error).__name__}") from error


def _unpacked(path: Path) -> bytes:
    """The whole file, at most `MAX_BYTES` of it, so that a small archive cannot fill the memory."""
    if path.suffix.lower() != ".gz":
        if path.stat().st_size > MAX_BYTES:
            raise UnreadableError("image-too-large", f"{path.name}: more than {MAX_BYTES} bytes")
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            content = file.read(MAX_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableError("nifti-unreadable", f"{path.name}: damaged archive: {error}") from error
    if len(content) > MAX_BYTES:
        raise UnreadableError("image-too-large", f"{path.name}: unpacks to more than {MAX_BYTES} bytes")
    return content


def _parse(content: bytes, name: str) -> Nifti:
    second = content[:4] in (b"\x1c\x02\0\0", b"\0\0\x02\x1c")  # a NIfTI-2 header has 540 bytes
    image: Any = (nib.Nifti2Image if second else nib.Nifti1Image).from_bytes(content)
    header = image.header
    if any(extension.get_code() == DICOM_EXTENSION for extension in header.extensions):
        raise UnreadableError("identity-nifti-extension", f"{name}: holds a DICOM header. Convert without it.")
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (3, 4) or min(shape) < 1 or np.prod(shape, dtype=np.float64) > MAX_VOXELS:
        raise UnreadableError("image-too-large", f"{name}: dimensions {shape}")
    if header.get_data_dtype().kind not in "iuf":
        raise UnreadableError("image-format", f"{name}: values of type {header.get_data_dtype()}")
    values = np.asanyarray(image.dataobj).reshape((*shape, 1)[:4], order="F")
    if not np.isfinite(values).all():
        raise UnreadableError("image-format", f"{name}: values that are no numbers")
    scale = TO_MM[header.get_xyzt_units()[0]]
    zooms = [float(zoom) * scale for zoom in header.get_zooms()[:3]]
    if not all(np.isfinite(zooms)) or min(zooms) <= 0:
        raise UnreadableError("geometry-missing", f"{name}: voxels of {zooms} mm")
    known = bool(header["sform_code"] or header["qform_code"])
    affine = RAS_TO_LPS @ np.asarray(image.affine, dtype=np.float64) if known else None
    if affine is not None:
        affine[:3] *= scale
        if not np.allclose(np.linalg.norm(affine[:3, :3], axis=0), zooms, rtol=0.02):
            raise UnreadableError("geometry-invalid", f"{name}: pixdim and the affine tell different voxel sizes")
        values, affine = _turned(values, affine, name)
    return Nifti(
        values=np.ascontiguousarray(values.transpose(3, 2, 1, 0)),
        spacing=(zooms[1], zooms[0], zooms[2]),
        affine=affine,
        repairs=() if known else ("no orientation in the NIfTI file: taken as stored",),
    )


def _turned(values: NDArray[Any], affine: NDArray[np.float64], name: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-9:
        raise UnreadableError("geometry-invalid", f"{name}: the affine is singular")
    affine = affine.copy()
    for axis in range(3):
        direction = affine[:3, axis]
        main = int(np.abs(direction).argmax())
        towards = direction @ APEX if axis == 2 else direction[main] * (-1.0 if main == 2 else 1.0)
        if towards < 0:
            values = np.flip(values, axis)
            affine[:3, 3] += direction * (values.shape[axis] - 1)
            affine[:3, axis] = -direction
    return values, affine
