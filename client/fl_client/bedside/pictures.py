"""Pictures of a patient page: heart images with what the model draws and looks at, ECG leads with their saliency."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

SIDE = 256  # pixels of a tile
MOST_SLICES = 3
COLOURS = ((46, 170, 160), (255, 140, 0), (200, 90, 220), (90, 140, 255))  # of structures, told apart without hue too
WARM = np.array([[0, 0, 0], [150, 20, 90], [255, 110, 20], [255, 240, 120]], dtype=np.float64)
BINS = 100  # of an ECG strip
FAINT = 0.05  # of the strongest: not coloured
Floats = NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One picture, with the words that stand for it."""

    source: str
    alt: str
    caption: str


def heart(
    video: Floats,
    frames: NDArray[np.bool_],
    slices: NDArray[np.bool_],
    *,
    labels: Mapping[str, tuple[NDArray[np.uint8], Sequence[str]]],
    heat: Floats | None,
) -> tuple[Tile, ...]:
    """Tiles of the middle phase: up to three slices, each grey, with what is drawn on it, and with Grad-CAM.

    Args:
        video: (frames, slices, size, size).
        frames: which are there.
        slices: which are there.
        labels: segmentation -> numbers (frames, slices, size, size) and the names of its structures, from 1.
        heat: (frames, slices, h, w), 0 and above; scaled by its greatest value over the whole record.
    """
    phases, places = np.flatnonzero(frames), np.flatnonzero(slices)
    phase = int(phases[len(phases) // 2])
    chosen = places[np.unique(np.linspace(0, len(places) - 1, min(MOST_SLICES, len(places))).round().astype(int))]
    shown = video[frames][:, slices].astype(np.float64)
    low, high = np.percentile(shown, [1, 99])
    strongest = float(heat.max()) if heat is not None else 0.0
    tiles = []
    for at in chosen.tolist():
        where = _where(phase, len(phases), at, places.tolist())
        grey = _grey(video[phase, at].astype(np.float64), low, high)
        tiles.append(_tile(grey, "as the model sees it", f"{where}: grey image."))
        for task, (numbers, names) in labels.items():
            name = f"{task.replace('_', ' ')} drawn by the model"
            said = ", ".join(f"{n} {_share(numbers[phase, at], k)}" for k, n in enumerate(names, 1))
            tiles.append(_tile(_drawn(grey, numbers[phase, at]), f"{name}: {said}", f"{where}: {name}, {said}."))
        if heat is not None and strongest > 0:
            warm = _warm(grey, heat[phase, at] / strongest)
            cells = "x".join(map(str, heat.shape[-2:]))
            tiles.append(
                _tile(warm, f"Grad-CAM ({cells} cells)", f"{where}: brightest where it raises the number most.")
            )
    return tuple(tiles)


def structure_shares(
    numbers: NDArray[np.uint8], frames: NDArray[np.bool_], slices: NDArray[np.bool_]
) -> dict[int, float]:
    """Number of a structure -> its share of all drawn voxels of the record."""
    inside = numbers[frames][:, slices]
    counts = np.bincount(inside.reshape(-1))[1:]
    return {k: float(n / counts.sum()) for k, n in enumerate(counts.tolist(), 1)} if counts.sum() else {}


def lead_strip(signal: Floats, values: Floats, *, strongest: float, reach: float, label: str) -> Markup:
    """A lead (T,) in mV over its attributions (T,), summed in `BINS` parts, as an SVG of any width.

    strongest: the greatest sum of any lead's parts; reach: the greatest mV of all leads.
    """
    width, height = 1000, 120
    parts = np.array_split(values, BINS)
    edges = np.cumsum([0, *(len(part) for part in parts)]) * width / len(signal)
    marks = []
    for part, left, right in zip(parts, edges[:-1], edges[1:], strict=True):
        share = float(part.sum()) / strongest if strongest else 0.0
        if abs(share) > FAINT:
            colour = "up" if share > 0 else "down"
            marks.append(
                f'<rect x="{left:.1f}" y="0" width="{right - left:.1f}" height="{height}" fill="var(--{colour})" '
                f'fill-opacity="{min(abs(share), 1) * 0.75:.2f}"/>'
            )
    xs = np.arange(len(signal)) * width / len(signal)
    ys = height / 2 - signal / reach * height * 0.46
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return Markup(
        f'<svg class="strip" viewBox="0 0 {width} {height}" preserveAspectRatio="none" role="img" aria-label="{{}}">'
        f'{"".join(marks)}<polyline points="{line}" fill="none" stroke="var(--ink)" stroke-width="1.1" '
        'vector-effect="non-scaling-stroke"/></svg>'
    ).format(label)


def strongest_part(values: Floats) -> float:
    """The greatest absolute sum of a part of any lead (leads, T)."""
    return max(abs(float(part.sum())) for lead in values for part in np.array_split(lead, BINS))


def _where(phase: int, phases: int, at: int, places: Sequence[int]) -> str:
    return f"Phase {phase + 1} of {phases}, slice {places.index(at) + 1} of {len(places)}"


def _share(numbers: NDArray[np.uint8], structure: int) -> str:
    whole = int((numbers > 0).sum())
    return f"{(numbers == structure).sum() / whole:.0%}" if whole else "none"


def _grey(image: Floats, low: float, high: float) -> Floats:
    """RGB (SIDE, SIDE, 3), 0 to 255."""
    scaled = np.clip((image - low) / max(high - low, 1e-9), 0, 1) * 255
    return np.repeat(_resized(scaled, Image.Resampling.BICUBIC)[..., None], 3, axis=2)


def _drawn(grey: Floats, numbers: NDArray[np.uint8]) -> Floats:
    """Structures filled lightly with a firm edge, so that what lies beneath stays visible."""
    large = np.asarray(Image.fromarray(numbers).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    found = grey.copy()
    for structure in np.unique(large[large > 0]).tolist():
        inside = large == structure
        colour = np.array(COLOURS[(structure - 1) % len(COLOURS)], dtype=np.float64)
        core = inside.copy()
        for shift in ((0, 2), (0, -2), (1, 2), (1, -2)):
            core &= np.roll(inside, shift[1], axis=shift[0])
        found[inside] = 0.62 * found[inside] + 0.38 * colour
        found[inside & ~core] = colour
    return found


def _warm(grey: Floats, heat: Floats) -> Floats:
    large = np.clip(_resized(heat.astype(np.float64), Image.Resampling.BILINEAR), 0, 1)
    colour = np.stack([np.interp(large, np.linspace(0, 1, len(WARM)), WARM[:, c]) for c in range(3)], axis=2)
    alpha = 0.7 * large[..., None]
    return (1 - alpha) * grey + alpha * colour


def _resized(image: Floats, how: Image.Resampling) -> Floats:
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize((SIDE, SIDE), how), dtype=np.float64)


def _tile(rgb: Floats, caption: str, alt: str) -> Tile:
    buffer = io.BytesIO()
    Image.fromarray(np.clip(rgb, 0, 255).round().astype(np.uint8)).save(buffer, format="png", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return Tile(source=source, alt=alt, caption=caption)
