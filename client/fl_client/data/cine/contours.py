"""Contours drawn by hand -> masks, exactly.

Sunnybrook's files (Radau et al., MIDAS J 2009) hold one point a line, ``x y`` in pixels as MATLAB counts them: the
centre of the first pixel is (1, 1). The release does not say so, the pictures do: 54 endocardial contours of three
patients lie on the steepest edges when they are moved by (-1.1, -1.0) against pixel centres counted from 0.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fl_client.data.findings import UnreadableError

CAVITY, MYOCARDIUM = 1, 2
FIRST_CENTRE = 1.0
MAX_BYTES = 1024**2
MAX_POINTS = 20_000
NAME = re.compile(r"IM-\d{4}-(?P<image>\d{4,6})-(?P<structure>[io])contour-manual\.txt", re.IGNORECASE)

Points = NDArray[np.float64]


def read_contours(files: Sequence[Path]) -> dict[int, dict[str, Points]]:
    """Image number -> ``i`` (endocardium), ``o`` (epicardium) -> points (n, 2), x and y from the first pixel's centre.

    Other files (papillary muscles, automatic contours) are left out.

    Raises:
        UnreadableError: a file is malformed, or two are for the same image; there is no contour.
    """
    found: dict[int, dict[str, Points]] = {}
    for path in files:
        if match := NAME.fullmatch(path.name):
            of_image = found.setdefault(int(match["image"]), {})
            if of_image.setdefault(match["structure"].lower(), points := _points(path)) is not points:
                raise UnreadableError("contour-twice", f"{path.name} is there twice")
    if not found:
        raise UnreadableError(
            "no-contour", f"no file is named like IM-0001-0048-icontour-manual.txt among {len(files)}"
        )
    return found


def rasterise(points: Points, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels (row, column) whose centres lie within a closed polygon.

    points: (n, 2), x (column) and y (row), centres at whole numbers from 0. Even-odd rule. A centre on an edge belongs
    to what lies to the right of the edge or below it, so polygons that share an edge share no pixel. The test is the
    sign of a sum of products, exact for the halves of pixels that contours are written in.
    """
    x, y = points[:, 0], points[:, 1]
    x2, y2 = np.roll(x, -1), np.roll(y, -1)
    inside = np.zeros(shape, dtype=bool)
    top, bottom = max(0, int(np.ceil(y.min()))), min(shape[0] - 1, int(np.floor(y.max())))
    columns = np.arange(shape[1], dtype=np.float64)
    for row in range(top, bottom + 1):
        crosses = (y <= row) != (y2 <= row)
        xa, ya, xb, yb = x[crosses, None], y[crosses, None], x2[crosses, None], y2[crosses, None]
        # the edge crosses the row at or to the left of the centre
        side = (xb - xa) * (row - ya) - (columns - xa) * (yb - ya)
        left = np.where(yb > ya, side <= 0, side >= 0)
        inside[row] = left.sum(axis=0) % 2 == 1
    return inside


def draw(contours: dict[str, Points], shape: tuple[int, int], name: str) -> NDArray[np.uint8]:
    """Labels (row, column): 1 the cavity within the endocardium, 2 the myocardium between it and the epicardium.

    Raises:
        UnreadableError: a contour leaves the picture or holds no pixel.
    """
    labels = np.zeros(shape, dtype=np.uint8)
    for structure, label in (("o", MYOCARDIUM), ("i", CAVITY)):
        if structure in contours:
            points = contours[structure]
            if points.min() < -0.5 or (points.max(axis=0) > np.array(shape[::-1]) - 0.5).any():
                raise UnreadableError("contour-outside", f"{name}: the {structure}-contour leaves the picture")
            mask = rasterise(points, shape)
            if not mask.any():
                raise UnreadableError("contour-empty", f"{name}: the {structure}-contour holds no pixel")
            labels[mask] = label
    return labels


def _points(path: Path) -> Points:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UnreadableError("contour-malformed", f"{path.name}: more than {MAX_BYTES} bytes")
        rows = [line.split() for line in path.read_text(encoding="ascii").splitlines() if line.strip()]
        points = np.array([[float(x), float(y)] for x, y in rows])
    except (OSError, ValueError) as error:
        raise UnreadableError("contour-malformed", f"{path.name}: not two numbers a line: {error}") from error
    if not 3 <= len(points) <= MAX_POINTS or not np.isfinite(points).all():
        raise UnreadableError("contour-malformed", f"{path.name}: {len(points)} points")
    return points - FIRST_CENTRE
