"""Frames -> groups that may form one volume: same series, orientation, shape and spacing; slices by geometry.

The slice of a frame is the place of its corner along the normal of its plane, dot(cross(row, column), position), never
SliceLocation, which scanners leave out, round or write with another sign.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_client.data.cine.dicom import Frame
from fl_client.data.findings import UnreadableError

SAME_ORIENTATION = 1e-3  # largest difference of a direction cosine: a twentieth of a degree
SAME_POSITION = 0.5  # mm along the normal
APEX = np.array([1.0, -1.0, -1.0])  # the left ventricle points to the left, the front and the feet (LPS)

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Frames by slice, from base to apex; within a slice in no order yet.

    orientation: number of the orientation, the same in all groups of a sample; normal: unit vector, towards the apex.
    A group without a known place (a radiograph) has one slice and no normal.
    """

    series: str
    orientation: int
    normal: Vector | None
    positions: tuple[float, ...]
    slices: tuple[tuple[Frame, ...], ...]

    @property
    def first(self) -> Frame:
        """One of the frames: for what they all share."""
        return self.slices[0][0]

    @property
    def frames(self) -> list[Frame]:
        """All of them."""
        return [frame for group in self.slices for frame in group]

    @property
    def phases(self) -> int:
        """Frames of the fullest slice."""
        return max(map(len, self.slices))

    @property
    def number(self) -> tuple[int, str]:
        """Sort key of series: the scanner's number, then the UID."""
        return self.first.image.series_number, self.series


def group_frames(frames: Sequence[Frame]) -> list[Group]:
    """Groups in the order of their series.

    Raises:
        UnreadableError: files share an identifier and differ, or an orientation is none.
    """
    frames = _without_copies(frames)
    directions = sorted({frame.orientation for frame in frames if frame.orientation is not None})
    chosen: list[tuple[float, ...]] = []
    number: dict[tuple[float, ...], int] = {}
    for cosines in directions:
        near = (i for i, other in enumerate(chosen) if np.abs(np.subtract(cosines, other)).max() <= SAME_ORIENTATION)
        number[cosines] = next(near, len(chosen))
        if number[cosines] == len(chosen):
            chosen.append(cosines)
    members: dict[tuple[int, tuple[object, ...]], list[Frame]] = defaultdict(list)
    for frame in frames:
        orientation = -1 if frame.orientation is None or frame.position is None else number[frame.orientation]
        spacing = tuple(round(x, 4) for x in frame.spacing or ())
        alike = (frame.image.series, frame.image.rows, frame.image.columns, spacing, frame.phase_image)
        members[orientation, alike].append(frame)
    groups = [
        _group(some, orientation=i, normal=None if i < 0 else normal_of(chosen[i])) for (i, _), some in members.items()
    ]
    return sorted(groups, key=lambda group: (*group.number, group.orientation, -len(group.frames)))


def normal_of(orientation: Sequence[float]) -> Vector:
    """Unit normal of the plane of two direction cosines (row, column), turned towards the apex.

    Raises:
        UnreadableError: they are no unit vectors at right angles.
    """
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.array([row @ row, column @ column])
    if np.abs(lengths - 1).max() > 0.01 or abs(row @ column) > 0.01:
        raise UnreadableError("geometry-invalid", "ImageOrientationPatient holds no two unit vectors at right angles")
    normal = np.cross(row, column)
    return np.asarray(normal / np.linalg.norm(normal) * (1.0 if normal @ APEX >= 0 else -1.0))


def _group(frames: Sequence[Frame], *, orientation: int, normal: Vector | None) -> Group:
    series = frames[0].image.series
    if normal is None:
        return Group(series=series, orientation=-1, normal=None, positions=(0.0,), slices=(tuple(frames),))
    placed = sorted(
        ((float(normal @ np.array(frame.position)), frame) for frame in frames),
        key=lambda pair: (pair[0], str(pair[1].image.path), pair[1].number),
    )
    where = np.array([position for position, _ in placed])
    edges = [0, *(np.flatnonzero(np.diff(where) > SAME_POSITION) + 1), len(placed)]
    parts = [slice(a, b) for a, b in pairwise(edges)]
    return Group(
        series=series,
        orientation=orientation,
        normal=normal,
        positions=tuple(float(np.median(where[part])) for part in parts),
        slices=tuple(tuple(frame for _, frame in placed[part]) for part in parts),
    )


def _without_copies(frames: Sequence[Frame]) -> list[Frame]:
    """One of each image: files with the same SOPInstanceUID must be copies, byte for byte."""
    files: dict[str, list[Path]] = defaultdict(list)
    for path, instance in sorted({frame.image.path: frame.image.instance for frame in frames}.items()):
        files[instance or str(path)].append(path)
    for alike in files.values():
        if len(alike) > 1 and len({hashlib.sha256(path.read_bytes()).digest() for path in alike}) > 1:
            detail = f"{alike[0].name} and {alike[1].name} share a SOPInstanceUID and differ"
            raise UnreadableError("dicom-same-identifier", detail)
    kept = {alike[0] for alike in files.values()}
    return [frame for frame in frames if frame.image.path in kept]
