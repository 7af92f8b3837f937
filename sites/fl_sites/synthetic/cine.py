"""A beating short-axis phantom: left ventricle, right ventricle and body, with its labels.

The left ventricle is a stack of rings. Its cavity shrinks from the drawn end-diastolic volume by exactly the drawn
ejection fraction; a scarred sector is thin and does not move, so the rest moves more. The wall keeps its area, and so
thickens as the cavity shrinks. Each slice is displaced in its plane, as slices of separate breath-holds are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fl_sites.synthetic.hospitals import Scanner

Floats = NDArray[np.float64]
Image = NDArray[np.float32]

BACKGROUND, CAVITY, MYOCARDIUM, SCAR = range(4)
SYSTOLE = 0.35  # of the heart beat
_TAPER = 0.2  # rad beyond a scar over which motion returns
_THINNING = 0.4  # of the wall in a scar
_BREATH = 1.5  # mm, standard deviation of a slice's displacement
_BLOOD, _MUSCLE, _SCARRED, _LUNG, _FAT, _ORGAN = 900, 320, 350, 50, 650, 240  # intensities of a bSSFP cine


@dataclass(frozen=True, kw_only=True)
class Heart:
    """volume: end-diastolic, mL; ejection: ejection fraction, 0 to 1; wall: end-diastolic thickness, mm; scar: share of
    the circumference, in all slices but the most basal; scar_angle: 0 lateral, pi/2 anterior; interval: ms a beat.
    """

    volume: float
    ejection: float
    wall: float
    scar: float
    scar_angle: float
    interval: float


@dataclass(frozen=True, kw_only=True)
class Cine:
    """video (phases, slices, rows, columns) uint16 and labels of the same shape uint8; phase 0 is end-diastole.

    row, column: unit vectors (3,) along which the column (the row) number grows, in DICOM's patient coordinates (mm:
    left, posterior, superior); positions (slices, 3): of the first pixel's centre, base first; times (phases,) ms.
    """

    video: NDArray[np.uint16]
    labels: NDArray[np.uint8]
    row: Floats
    column: Floats
    positions: Floats
    times: Floats
    interval: float


def end_systole(phases: int) -> int:
    """Number of the phase in which the cavity is smallest."""
    return round(SYSTOLE * phases)


def draw_cine(rng: np.random.Generator, heart: Heart, scanner: Scanner) -> Cine:
    """The stack of one heart on one scanner."""
    video, labels = _beat(rng, heart, scanner)
    row, column, positions = _place(rng, scanner)
    return Cine(
        video=video,
        labels=labels,
        row=row,
        column=column,
        positions=positions,
        times=np.round(np.arange(scanner.phases) * heart.interval / scanner.phases, 2),
        interval=heart.interval,
    )


def _place(rng: np.random.Generator, scanner: Scanner) -> tuple[Floats, Floats, Floats]:
    """Row and column vectors of an oblique short-axis view, and the slices' positions from base to apex."""
    axis = np.array([0.62, -0.55, -0.56]) + rng.normal(0, 0.05, 3)  # base to apex: left, anterior, inferior
    axis /= np.linalg.norm(axis)
    down = np.array([0.0, 0.0, -1.0])
    column = down - (down @ axis) * axis
    column /= np.linalg.norm(column)
    row = np.cross(axis, column)
    middle = np.array([20.0, -30.0, 10.0]) + rng.normal(0, 8, 3)
    half = scanner.spacing / 2 * ((scanner.columns - 1) * row + (scanner.rows - 1) * column)
    depth = (np.arange(scanner.slices) - (scanner.slices - 1) / 2) * scanner.gap
    return row, column, middle - half + depth[:, None] * axis


def _contraction(phases: int) -> Floats:
    """0 at end-diastole, 1 at end-systole (phases,): quick to empty, quick to begin filling."""
    t, end = np.arange(phases), end_systole(phases)
    filling = np.clip((t - end) / (phases - end), 0, 1) ** 0.6
    return np.where(t <= end, np.sin(np.pi / 2 * t / end) ** 2, np.cos(np.pi / 2 * filling) ** 2)


def _motion(angle: Floats, heart: Heart, scarred: Floats) -> Floats:
    """How much of the wall's motion there is at each angle: 0 in the scar, 1 away from it. ``scarred``: 0 or 1."""
    if heart.scar == 0:
        return np.ones(np.broadcast_shapes(angle.shape, scarred.shape))
    away = np.abs((angle - heart.scar_angle + np.pi) % (2 * np.pi) - np.pi) - np.pi * heart.scar
    s = np.clip(away / _TAPER, 0, 1)
    return 1 - scarred * (1 - s * s * (3 - 2 * s))


def _beat(rng: np.random.Generator, heart: Heart, scanner: Scanner) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """Video and labels."""
    level = (np.arange(scanner.slices) + 0.5) / scanner.slices
    profile = np.sqrt(1 - (0.92 * level) ** 2)  # from the widest ring at the base to the apex
    radius = profile * np.sqrt(1000 * heart.volume / (np.pi * scanner.gap * (profile**2).sum()))
    scarred = (np.arange(scanner.slices) > 0).astype(float)
    around = np.linspace(-np.pi, np.pi, 720, endpoint=False)
    moving = np.average(_motion(around, heart, scarred[:, None]).mean(axis=1), weights=profile**2)

    x, y = _grid(rng, scanner)
    rho, angle = np.hypot(x, y), np.arctan2(y, x)
    motion = _motion(angle, heart, scarred[:, None, None])
    contraction = _contraction(scanner.phases)[:, None, None, None]
    endo = radius[:, None, None]
    inner = endo * np.sqrt(1 - heart.ejection / moving * contraction * motion)
    wall = heart.wall * (1 - _THINNING * (1 - motion))
    outer = np.sqrt(inner**2 + (endo + wall) ** 2 - endo**2)

    labels = np.where(rho < inner, CAVITY, np.where(rho < outer, MYOCARDIUM, BACKGROUND)).astype(np.uint8)
    dead = motion == 0
    labels[(labels == MYOCARDIUM) & dead] = SCAR
    muscle = np.where(dead, _SCARRED, _MUSCLE)
    image = _surroundings(x, y, endo + heart.wall, contraction * heart.ejection, scanner)
    image = _over(image, muscle, outer - rho, scanner)
    image = _over(image, _BLOOD, inner - rho, scanner)
    return _expose(rng, image, x, y, scanner), labels


def _grid(rng: np.random.Generator, scanner: Scanner) -> tuple[Floats, Floats]:
    """Millimetres to the right of and above the cavity's centre (slices, rows, columns)."""
    shift = rng.normal(0, _BREATH, (2, scanner.slices, 1, 1)) + np.array([8.0, 0.0]).reshape(2, 1, 1, 1)
    across = (np.arange(scanner.columns) - (scanner.columns - 1) / 2) * scanner.spacing
    up = ((scanner.rows - 1) / 2 - np.arange(scanner.rows)) * scanner.spacing
    shape = (scanner.slices, scanner.rows, scanner.columns)
    return np.broadcast_to(across - shift[0], shape), np.broadcast_to(up[:, None] - shift[1], shape)


def _over(image: Floats, value: Floats | float, depth: Floats, scanner: Scanner) -> Floats:
    """``value`` laid over the image where ``depth`` (mm inside the edge) is positive, mixed in pixels on the edge."""
    share = np.clip(depth / scanner.spacing + 0.5, 0, 1)
    return image + share * (value - image)


def _surroundings(x: Floats, y: Floats, outside: Floats, shortening: Floats, scanner: Scanner) -> Floats:
    """Lung, chest wall, liver and the right ventricle, a disc behind the left one that moves half as much."""
    image = np.full(x.shape, float(_ORGAN))
    image = _over(image, _LUNG, 45 - np.hypot(x - 75, y - 5), scanner)
    image = _over(image, _FAT, y - 58, scanner)
    right = 0.9 * outside * np.sqrt(1 - 0.5 * shortening)
    depth = right - np.hypot(x + outside + 8, 0.85 * (y - 2))
    return _over(_over(image, _MUSCLE, depth + 3, scanner), _BLOOD, depth, scanner)


def _expose(rng: np.random.Generator, image: Floats, x: Floats, y: Floats, scanner: Scanner) -> NDArray[np.uint16]:
    """The receive coil's shading, a ghost of breathing half the image away, and noise; 12 bits."""
    seen = image * (1 + 0.002 * y + 0.001 * x)
    seen = seen + 0.03 * np.roll(seen, scanner.rows // 2, axis=-2)
    noisy = seen + rng.normal(0, scanner.noise, seen.shape)
    return np.clip(np.round(noisy), 0, 4095).astype(np.uint16)
