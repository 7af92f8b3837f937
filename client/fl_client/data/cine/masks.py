"""Masks of a cine: contour files or NIfTI label maps -> labels on the cine's own grid and on the study's."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_client.data.cine.contours import draw, read_contours
from fl_client.data.cine.files import is_nifti, sample_files
from fl_client.data.cine.grid import padded
from fl_client.data.cine.nifti import Nifti, read_nifti
from fl_client.data.cine.source import Cine, grid_of, open_cine
from fl_client.data.findings import UnreadableError
from fl_shared.site import CineFiles
from fl_shared.study import ModalityPlan

FRAME = re.compile(r"frame(\d{1,4})", re.IGNORECASE)
OFF_GRID = 0.5  # voxels that a label map may lie beside the cine

Labels = NDArray[np.uint8]
Places = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Labels: of contours 1 the cavity, 2 the myocardium; of label maps the file's own.

    native: (phases, slices, rows, columns); annotated: (phases, slices), where someone drew; walls: where the
    myocardium was drawn too (a lone endocardium leaves it as 0). A lone epicardium counts for nothing. spacing: mm
    (row, column, slice).
    grid_labels, grid_annotated, grid_walls: the same on the study's grid, (frames, slices, …); each drawn phase stands
    at the study's frame nearest in time, each label is the nearest voxel's.
    """

    native: Labels
    annotated: Places
    walls: Places
    spacing: tuple[float, float, float]
    grid_labels: Labels
    grid_annotated: Places
    grid_walls: Places


def read_masks(root: Path, named: str, masks_named: str, *, plan: ModalityPlan, mapped: CineFiles) -> Masks:
    """Masks ``masks_named`` (a contour folder, a NIfTI file or a folder of them) of the cine ``named``.

    A NIfTI label map holds all phases, or one and ``frame07`` in its name (counted from 1). Contours name images by
    InstanceNumber, so renamed DICOM files do no harm.

    Raises:
        UnreadableError: the cine or a mask is unreadable, or a mask belongs to no image of the cine.
    """
    cine = open_cine(root, named, mapped)
    files = sample_files(root, masks_named)
    maps = [path for path in files if is_nifti(path.name)]
    if maps:
        native, annotated = _from_maps(root, maps, cine)
        walls = annotated
    else:
        native, annotated, walls = _from_contours(files, cine)
    grid = grid_of(cine, plan)
    labels = np.zeros((plan.frames, len(grid.slices), plan.size, plan.size), dtype=np.uint8)
    drawn, with_walls = np.zeros((2, *labels.shape[:2]), dtype=bool)
    # the nearest phase is written last
    for phase in sorted(np.flatnonzero(annotated.any(axis=1)), key=lambda p: -grid.frame_of(int(p))[1]):
        frame, _ = grid.frame_of(int(phase))
        labels[frame] = grid.labels(native[phase : phase + 1])[0]
        drawn[frame], with_walls[frame] = annotated[phase, grid.slices], walls[phase, grid.slices]
    return Masks(
        native=native,
        annotated=annotated,
        walls=walls,
        spacing=cine.spacing,
        grid_labels=padded(labels, plan.slices),
        grid_annotated=padded(drawn, plan.slices),
        grid_walls=padded(with_walls, plan.slices),
    )


def _from_contours(files: Sequence[Path], cine: Cine) -> tuple[Labels, Places, Places]:
    places = cine.images()
    labels = np.zeros(cine.shape, dtype=np.uint8)
    annotated, walls = np.zeros((2, *cine.shape[:2]), dtype=bool)
    for number, contours in read_contours(files).items():
        if number not in places:
            detail = f"image {number}: no frame of the cine has this InstanceNumber"
            raise UnreadableError("contour-without-image", detail)
        phase, level = places[number]
        if "i" not in contours:  # an epicardium alone does not tell cavity from myocardium
            continue
        labels[phase, level] = draw(contours, cine.shape[2:], f"image {number}")
        annotated[phase, level] = True
        walls[phase, level] = "o" in contours
    return labels, annotated, walls


def _from_maps(root: Path, paths: Sequence[Path], cine: Cine) -> tuple[Labels, Places]:
    labels = np.zeros(cine.shape, dtype=np.uint8)
    annotated = np.zeros(cine.shape[:2], dtype=bool)
    for path in paths:
        found = _aligned(read_nifti(root, str(path)), cine, path.name)
        if not np.isin(found, np.arange(256)).all():
            raise UnreadableError("mask-values", f"{path.name}: labels are whole numbers from 0 to 255")
        if len(found) == cine.shape[0]:
            phases = np.arange(len(found))
        elif len(found) == 1 and (match := FRAME.search(path.name)) and 1 <= int(match[1]) <= cine.shape[0]:
            phases = np.array([int(match[1]) - 1])
        else:
            detail = f"{path.name}: {len(found)} phases, the cine has {cine.shape[0]}. Name a single one 'frame07'."
            raise UnreadableError("mask-phases", detail)
        labels[phases] = found
        annotated[phases[found.any(axis=(1, 2, 3))]] = True
    if not annotated.any():
        raise UnreadableError("mask-empty", f"{paths[0].name}: no label")
    return labels, annotated


def _aligned(mask: Nifti, cine: Cine, name: str) -> NDArray[np.generic]:
    """The mask's values (phases, slices, rows, columns) with its axes in the cine's order and direction."""
    if mask.affine is None or cine.affine is None:
        if mask.affine is not None or cine.affine is not None or mask.shape[1:] != cine.shape[1:]:
            raise UnreadableError("mask-geometry", f"{name}: shape {mask.shape[1:]} or orientation not the cine's")
        return mask.values
    to_cine = np.linalg.inv(cine.affine) @ mask.affine  # voxel of the mask -> voxel of the cine: column, row, slice
    axes = np.abs(to_cine[:3, :3]).argmax(axis=0)
    values = mask.values.transpose(3, 2, 1, 0)
    sizes = np.array(values.shape[:3])
    turned = np.zeros((3, 4))
    if sorted(axes) == [0, 1, 2]:
        values = values.transpose(*np.argsort(axes), 3)
        for axis, goal in enumerate(axes):
            sign = np.sign(to_cine[goal, axis])
            turned[goal, axis], turned[goal, 3] = sign, 0 if sign > 0 else sizes[axis] - 1
            values = values if sign > 0 else np.flip(values, goal)
    ends = np.array(np.meshgrid(*((0, n - 1) for n in sizes), [1], indexing="ij")).reshape(4, -1)
    ends[3] = 1
    off = np.abs(to_cine[:3] @ ends - turned @ ends).max()
    native = values.transpose(3, 2, 1, 0)
    if native.shape[1:] != cine.shape[1:] or off > OFF_GRID:
        raise UnreadableError("mask-geometry", f"{name}: lies {off:.1f} voxels beside the cine, or is of another size")
    return native
