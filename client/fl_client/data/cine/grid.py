"""A volume -> the study's grid: clip, z-score, pad or cut to a square, interpolate in time and plane, pick slices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

from fl_client.data.findings import UnreadableError

CLIP = (1.0, 99.0)  # percentiles of the series


@dataclass(frozen=True, kw_only=True)
class Grid:
    """How a native grid (phases, slices, rows, columns) maps to the study's.

    rows, columns: pixels of the square after padding (native size); slices: the native slices that are kept.
    """

    phases: int
    slices: NDArray[np.int64]
    rows: int
    columns: int
    frames: int
    size: int

    @classmethod
    def of(
        cls,
        shape: tuple[int, int, int, int],
        spacing: tuple[float, float, float],
        *,
        frames: int,
        slices: int,
        size: int,
        field_of_view: float | None,
    ) -> Grid:
        """The study's grid for a volume of this shape (phases, slices, rows, columns) and spacing (mm).

        The square is ``field_of_view`` mm wide, or as wide as the longer side. Slices are the middles of equal
        parts of the stack, so one slice is the middle one; a stack of fewer slices keeps them all.
        """
        phases, levels, rows, columns = shape
        side = field_of_view or max(rows * spacing[0], columns * spacing[1])
        kept = min(slices, levels)
        return cls(
            phases=phases,
            slices=((np.arange(kept) + 0.5) * levels / kept).astype(np.int64),
            rows=max(1, round(side / spacing[0])),
            columns=max(1, round(side / spacing[1])),
            frames=frames,
            size=size,
        )

    def spacing(self, native: tuple[float, float, float]) -> NDArray[np.float32]:
        """mm of rows, columns and slices on the study's grid (mean distance of the slices kept)."""
        steps = np.diff(self.slices)
        apart = native[2] * (float(steps.mean()) if steps.size else 1.0)
        return np.array([native[0] * self.rows / self.size, native[1] * self.columns / self.size, apart], np.float32)

    def images(self, voxels: NDArray[np.float32], named: str) -> NDArray[np.float16]:
        """Native values (phases, slices, rows, columns) -> (frames, slices kept, size, size), z-scored.

        Values are clipped to the whole series' 1st and 99th percentile, then its mean is subtracted and the result
        divided by its standard deviation; what is padded is as dark as the darkest value.

        Raises:
            UnreadableError: the values do not vary.
        """
        low, high = np.percentile(voxels, CLIP).astype(np.float32)
        clipped = np.clip(voxels, low, high)
        mean, deviation = float(clipped.mean(dtype=np.float64)), float(clipped.std(dtype=np.float64))
        if not deviation > 1e-6 * max(1.0, abs(mean)):
            raise UnreadableError("image-blank", f"{named}: all values alike")
        beats = np.tensordot(periodic(self.phases, self.frames), clipped[:, self.slices], axes=1)
        pictures = self._square(torch.from_numpy(np.ascontiguousarray(beats)), float(low))
        # antialias: each pixel is a weighted mean of all it covers when the grid becomes coarser
        sized = functional.interpolate(pictures, (self.size, self.size), mode="bilinear", antialias=True)
        return np.asarray(((sized - mean) / deviation).to(torch.float16).numpy())

    def labels(self, labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Native labels (any, slices, rows, columns) -> (any, slices kept, size, size): the nearest voxel's."""
        pictures = self._square(torch.from_numpy(labels[:, self.slices]).to(torch.float32), 0.0)
        sized = functional.interpolate(pictures, (self.size, self.size), mode="nearest-exact")
        return np.asarray(sized.to(torch.uint8).numpy())

    def frame_of(self, phase: int) -> tuple[int, float]:
        """The study's frame nearest to a native phase, and how far it is, in frames; time runs in a circle."""
        place = phase * self.frames / self.phases
        nearest = int(np.floor(place + 0.5))
        return nearest % self.frames, abs(place - nearest)

    def _square(self, pictures: torch.Tensor, value: float) -> torch.Tensor:
        """Pad with ``value`` or cut, alike on both sides."""
        more_rows, more_columns = self.rows - pictures.shape[-2], self.columns - pictures.shape[-1]
        pad = (more_columns // 2, more_columns - more_columns // 2, more_rows // 2, more_rows - more_rows // 2)
        return functional.pad(pictures, pad, value=value)


def periodic(phases: int, frames: int) -> NDArray[np.float32]:
    """Weights (frames, phases) that resample one heart beat: linear between phases, the last beside the first.

    Frame k stands at phase k x phases / frames. Where frames are fewer, the triangle is as wide as their distance, so
    that no phase is lost; where they are as many, the result is the identity.
    """
    step = phases / frames
    apart = np.arange(frames)[:, None] * step - np.arange(phases)[None, :]
    apart = np.abs((apart + phases / 2) % phases - phases / 2)
    weights = np.maximum(0.0, 1.0 - apart / max(1.0, step))
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), dtype=np.float32)


def padded(array: NDArray[Any], slices: int) -> NDArray[Any]:
    """(frames, kept, …) -> (frames, slices, …), zeros behind."""
    more = [(0, 0)] * array.ndim
    more[1] = (0, slices - array.shape[1])
    return np.pad(array, more)
