"""Series -> one stack of cine frames: slices from base to apex, phases by time.

A scanner writes a short-axis stack as one series or as one series a slice; series that share orientation, shape and
spacing and lie at different places are put together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_client.data.cine.dicom import Frame
from fl_client.data.cine.groups import SAME_POSITION, Group, Vector
from fl_client.data.cine.pixels import read_pixels
from fl_client.data.cine.sequence import LONG_AXIS, SHORT_AXIS, SeriesKind, recognised
from fl_client.data.cine.series import read_series
from fl_client.data.findings import UnreadableError

UNEVEN = 1.75  # times the median step: something is missing between


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Frames by phase and slice, not decoded yet.

    spacing: mm of rows, columns, slices; affine: (4, 4), (column, row, slice) -> mm in patient coordinates (LPS).
    """

    frames: tuple[tuple[Frame, ...], ...]
    spacing: tuple[float, float, float]
    affine: NDArray[np.float64]
    repairs: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Phases, slices, rows, columns."""
        image = self.frames[0][0].image
        return len(self.frames), len(self.frames[0]), image.rows, image.columns

    def images(self) -> dict[int, tuple[int, int]]:
        """InstanceNumber -> (phase, slice), for contours that name images by number; empty when not distinct."""
        numbers = {frame.instance_number: (p, s) for p, row in enumerate(self.frames) for s, frame in enumerate(row)}
        known = {number: place for number, place in numbers.items() if number is not None}
        return known if len(known) == self.shape[0] * self.shape[1] else {}

    def voxels(self) -> NDArray[np.float32]:
        """Rescaled values (phases, slices, rows, columns)."""
        return read_pixels([frame for row in self.frames for frame in row]).reshape(self.shape)


def read_stack(root: Path, named: str, *, series: str | None) -> Stack:
    """The short-axis cine of a DICOM file or folder.

    Of several, the one with most slices is taken, then one that calls itself short-axis, then the one with most
    phases, then the latest series.

    Raises:
        UnreadableError: unreadable, no short-axis cine in it, or slices that do not have the same number of phases.
    """
    groups, repairs = read_series(root, named, pattern=series)
    kinds = recognised(groups)
    stacks = _merge(_short_axis(kinds, named))
    order = sorted(stacks, key=lambda stack: (*_rank(stack), max(group.number for group in stack)))
    best = order[-1]
    if len(order) > 1 and _rank(order[-2]) == _rank(best):
        repairs = (*repairs, "several cine stacks alike: the latest series is taken")
    stack = _stacked(best, named)
    return Stack(frames=stack.frames, spacing=stack.spacing, affine=stack.affine, repairs=(*repairs, *stack.repairs))


def _short_axis(kinds: dict[SeriesKind, list[Group]], named: str) -> list[Group]:
    cines = [group for group in kinds.get("cine", ()) if group.normal is not None]
    if not cines:
        raise UnreadableError("not-cine", f"{named}: no cine with positions; series: {', '.join(sorted(kinds))}")
    words = [group.first.image.words for group in cines]
    short = [
        group for group, text in zip(cines, words, strict=True) if SHORT_AXIS.search(text) or not LONG_AXIS.search(text)
    ]
    if not short:
        raise UnreadableError("not-short-axis", f"{named}: only long-axis cines, by their descriptions")
    return short


def _merge(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups that make up one stack: alike, and at places of their own. Later repeats start a stack of their own."""
    stacks: list[list[Group]] = []
    for group in groups:
        for stack in stacks:
            if _alike(stack[0], group) and not _overlap(stack, group):
                stack.append(group)
                break
        else:
            stacks.append([group])
    return stacks


def _alike(one: Group, other: Group) -> bool:
    a, b = one.first, other.first
    shapes = {(frame.image.rows, frame.image.columns, len(frame.spacing or ())) for frame in (a, b)}
    return (
        one.orientation == other.orientation
        and len(shapes) == 1
        and np.allclose(a.spacing or (), b.spacing or (), rtol=1e-3)
    )


def _overlap(stack: Sequence[Group], group: Group) -> bool:
    taken = np.array([position for member in stack for position in member.positions])
    return any(np.abs(taken - position).min() <= SAME_POSITION for position in group.positions)


def _rank(stack: Sequence[Group]) -> tuple[int, bool, int]:
    named = any(SHORT_AXIS.search(group.first.image.words) for group in stack)
    return sum(len(group.slices) for group in stack), named, max(group.phases for group in stack)


def _stacked(groups: Sequence[Group], named: str) -> Stack:
    slices = sorted(
        (place for group in groups for place in zip(group.positions, group.slices, strict=True)), key=lambda s: s[0]
    )
    counts = sorted({len(frames) for _, frames in slices})
    if len(counts) > 1:
        detail = f"{named}: slices of {counts} phases. Add what is missing, or name one series by 'series'."
        raise UnreadableError("ragged-phases", detail)
    ordered, uneven = _by_phase([frames for _, frames in slices], named)
    positions = np.array([position for position, _ in slices])
    first, normal = ordered[0][0], groups[0].normal
    if first.spacing is None or min(first.spacing) <= 0 or first.orientation is None or normal is None:
        raise UnreadableError("geometry-missing", f"{named}: no PixelSpacing")
    steps = np.diff(positions)
    distance = float(np.median(steps)) if steps.size else first.slice_distance
    if distance is None:
        raise UnreadableError("geometry-missing", f"{named}: a single slice without SliceThickness")
    happened = {
        "uneven phase times": uneven,
        "uneven slice distances": steps.size > 0 and bool(steps.max() > UNEVEN * distance),
        "slices shifted in their plane": _shift(ordered, normal) > max(first.spacing),
    }
    affine = np.eye(4)
    affine[:3, 0] = np.array(first.orientation[:3]) * first.spacing[1]
    affine[:3, 1] = np.array(first.orientation[3:]) * first.spacing[0]
    affine[:3, 2] = normal * distance
    affine[:3, 3] = first.position
    return Stack(
        frames=tuple(zip(*ordered, strict=True)),
        spacing=(first.spacing[0], first.spacing[1], distance),
        affine=affine,
        repairs=tuple(name for name, did in happened.items() if did),
    )


def _by_phase(slices: Sequence[Sequence[Frame]], named: str) -> tuple[list[list[Frame]], bool]:
    """Each slice's frames in order of time, and whether their steps differ.

    By trigger time, else temporal position, else number: the first that all frames have and that tells them apart.
    """
    for which in range(3):
        keys = [[frame.orders[which] for frame in frames] for frames in slices]
        if all(None not in of_slice and len(set(of_slice)) == len(of_slice) for of_slice in keys):
            known = [np.array(of_slice, dtype=np.float64) for of_slice in keys]
            steps = [np.diff(np.sort(times)) for times in known] if which == 0 else []
            ordered = [[frames[i] for i in np.argsort(times)] for frames, times in zip(slices, known, strict=True)]
            return ordered, any(bool(step.max() > UNEVEN * np.median(step)) for step in steps)
    raise UnreadableError(
        "phases-indistinct", f"{named}: no trigger time, temporal position or number orders the phases"
    )


def _shift(slices: Sequence[Sequence[Frame]], normal: Vector) -> float:
    """Largest distance (mm) of a frame's corner from the line through the first one along the normal."""
    corners = np.array([[frame.position for frame in frames] for frames in slices], dtype=np.float64)
    across = corners - (corners @ normal)[..., None] * normal
    return float(np.linalg.norm(across - across[0, 0], axis=-1).max())
