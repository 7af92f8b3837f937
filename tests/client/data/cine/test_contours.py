"""Contours drawn by hand -> masks."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Polygon

from fl_client.data.cine import read_masks, ventricle
from fl_client.data.cine.contours import rasterise
from fl_client.data.findings import UnreadableError

sys.path.insert(0, str(Path(__file__).parent))
from mr_files import DISTANCE, SPACING, mapped, plan, volume, write_cine

SHAPE = (40, 50)


def crossings(points: np.ndarray, x: float, y: float) -> bool:
    """Whether a point lies in a polygon: the plain loop over edges, in whole numbers of quarter pixels."""
    odd = False
    n = len(points)
    px, py = round(4 * x), round(4 * y)
    whole = [(round(4 * a), round(4 * b)) for a, b in points]
    for i in range(n):
        (ax, ay), (bx, by) = whole[i], whole[(i + 1) % n]
        if (ay <= py) != (by <= py):
            cross = (bx - ax) * (py - ay) - (px - ax) * (by - ay)
            if (cross <= 0) == (by > ay) or cross == 0:
                odd = not odd
    return odd


def area(points: np.ndarray) -> float:
    x, y = points.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def blob(data, *, step: float) -> np.ndarray:
    n = data.draw(st.integers(5, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**31)))
    angle = np.sort(rng.uniform(0, 2 * np.pi, n))
    radius = rng.uniform(3, 15, n)
    points = np.stack([24 + radius * np.cos(angle), 19 + radius * np.sin(angle)], axis=1)
    return np.round(points / step) * step


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_masks_equal_an_integer_loop_over_edges(data):
    points = blob(data, step=0.5)  # as contour files are written: centres fall on edges and corners
    mask = rasterise(points, SHAPE)
    expected = [[crossings(points, x, y) for x in range(SHAPE[1])] for y in range(SHAPE[0])]
    np.testing.assert_array_equal(mask, expected)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_masks_equal_matplotlib_off_the_edges(data):
    points = blob(data, step=0.25) + np.array(
        [0.0371, 0.0193]
    )  # no centre on an edge, where matplotlib promises nothing
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    inside = Polygon(np.vstack([points, points[:1]]), closed=True).contains_points(np.stack([x, y], -1).reshape(-1, 2))
    mask = rasterise(points, SHAPE)
    np.testing.assert_array_equal(mask, inside.reshape(SHAPE))


def test_the_area_of_a_circle_is_met_without_bias():
    offs = []
    for shift in np.random.default_rng(0).uniform(0, 1, (40, 2)):
        angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
        points = 10 * np.stack([np.cos(angle), np.sin(angle)], 1) + [24, 19] + shift
        offs.append(rasterise(points, SHAPE).sum() - area(points))
    assert abs(np.mean(offs)) < 1.0  # of 314 pixels
    assert np.abs(offs).max() < 12


def test_polygons_that_share_an_edge_share_no_pixel_and_leave_none():
    corners = np.array([[5, 5], [30, 5], [30, 25], [5, 25]], dtype=float)
    knee = np.array([[17.5, 5], [12, 15], [20, 25]], dtype=float)
    left = np.vstack([corners[:1], knee, corners[3:]])
    right = np.vstack([knee[:1], corners[1:3], knee[::-1][:2]])
    whole, one, other = rasterise(corners, SHAPE), rasterise(left, SHAPE), rasterise(right, SHAPE)
    assert whole.sum() == 25 * 20  # the upper and left edges belong to it, the lower and right ones do not
    assert not (one & other).any()
    np.testing.assert_array_equal(one | other, whole)


def test_direction_and_starting_point_change_nothing():
    points = np.array([[10, 10.5], [20.5, 8], [25, 20], [12, 24.5]])
    mask = rasterise(points, SHAPE)
    np.testing.assert_array_equal(rasterise(points[::-1], SHAPE), mask)
    np.testing.assert_array_equal(rasterise(np.roll(points, 2, axis=0), SHAPE), mask)


def circle(x: float, y: float, radius: float) -> np.ndarray:
    """In the coordinates of the files: the first pixel's centre is (1, 1)."""
    angle = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    return np.stack([x + 1 + radius * np.cos(angle), y + 1 + radius * np.sin(angle)], axis=1)


def write_contour(folder: Path, number: int, structure: str, points: np.ndarray, *, kind: str = "manual") -> None:
    below = folder / f"{structure}-contours"
    below.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{x:.2f} {y:.2f}\n" for x, y in points)
    (below / f"IM-0001-{number:04d}-{structure}contour-{kind}.txt").write_text(text)


def number(phase: int, level: int, slices: int) -> int:
    """InstanceNumber that `write_cine` gives."""
    return (slices - level) * 100 + phase


@pytest.fixture
def drawn(tmp_path):
    """A cine of 10 phases and 4 slices, drawn at phases 0 (radius 10) and 4 (radius 7), the wall at 0 only."""
    write_cine(tmp_path / "p", volume(10, 4, 48, 48))
    for phase, radius in ((0, 10.0), (4, 7.0)):
        for level in (1, 2, 3):
            write_contour(tmp_path / "c", number(phase, level, 4), "i", circle(20.3 + level, 22.6, radius))
    for level in (1, 2, 3):
        write_contour(tmp_path / "c", number(0, level, 4), "o", circle(20.3 + level, 22.6, 14.0))
    write_contour(tmp_path / "c", number(0, 1, 4), "p1", circle(20, 20, 2))  # papillary muscle
    write_contour(tmp_path / "c", number(0, 1, 4), "i", circle(30, 30, 2), kind="auto")
    return tmp_path


def masks(root: Path, named: str = "c", **keys):
    return read_masks(root, "p", named, plan=plan(**{"frames": 5, "slices": 4, "size": 48, **keys}), mapped=mapped())


def refused(root: Path, named: str = "c") -> str:
    with pytest.raises(UnreadableError) as error:
        masks(root, named)
    return error.value.check


def test_contours_land_on_their_phase_and_slice(drawn):
    found = masks(drawn)
    assert found.native.shape == (10, 4, 48, 48)
    expected = np.zeros((10, 4), dtype=bool)
    expected[np.ix_([0, 4], [1, 2, 3])] = True
    np.testing.assert_array_equal(found.annotated, expected)
    assert found.walls.any(axis=1).nonzero()[0].tolist() == [0]
    y, x = np.mgrid[:48, :48]
    for level in (1, 2, 3):
        rho = np.hypot(x - 20.3 - level, y - 22.6)
        near = (np.abs(rho - 10) < 0.02) | (np.abs(rho - 14) < 0.02)  # the polygon lies a little within the circle
        rings = np.where(rho < 10, 1, np.where(rho < 14, 2, 0))
        np.testing.assert_array_equal(found.native[0, level][~near], rings[~near])
        assert ((found.native[4, level] == 1) == (rho < 7))[np.abs(rho - 7) > 0.02].all()


def test_labels_on_the_studys_grid_stand_where_the_video_does(drawn):
    found = masks(drawn, frames=5, slices=2, size=24)
    # frames 0 and 2 of 5 stand at phases 0 and 4 of 10; slices 1 and 3 of 4 are kept
    assert found.grid_annotated.tolist() == [[True, True], [False, False], [True, True], [False, False], [False, False]]
    assert found.grid_walls.any(axis=1).tolist() == [True, False, False, False, False]
    centre = np.argwhere(found.grid_labels[0, 0] == 1).mean(axis=0)
    # 48 rows of 1.5 mm; 48 columns of 1.25 mm are padded to 58
    np.testing.assert_allclose(centre, [(22.6 + 0.5) / 2 - 0.5, (21.3 + 5 + 0.5) * 24 / 58 - 0.5], atol=0.5)
    millimetres = (found.grid_labels[0, 0] == 1).sum() * (48 * 1.5 / 24) * (58 * 1.25 / 24)
    assert millimetres == pytest.approx(np.pi * 100 * 1.5 * 1.25, rel=0.05)


def test_a_stack_of_fewer_slices_has_empty_labels_behind(drawn):
    found = masks(drawn, slices=6)
    assert found.grid_labels.shape == (5, 6, 48, 48)
    assert not found.grid_labels[:, 4:].any()
    assert not found.grid_annotated[:, 4:].any()


def test_volumes_are_sums_of_discs(drawn):
    found = masks(drawn)
    heart = ventricle(found.native, found.annotated, spacing=found.spacing)
    voxel = SPACING[0] * SPACING[1] * found.spacing[2] / 1000
    assert found.spacing[2] == pytest.approx(DISTANCE, abs=1e-3)
    assert heart.edv == pytest.approx(3 * np.pi * 100 * voxel, rel=0.02)
    assert heart.esv == pytest.approx(3 * np.pi * 49 * voxel, rel=0.02)
    assert heart.ef == pytest.approx(51, abs=2)
    assert (heart.diastole, heart.systole) == (0, 4)


def test_a_stray_contour_is_no_systole(drawn):
    write_contour(drawn / "c", number(7, 2, 4), "i", circle(22, 22, 3))
    found = masks(drawn)
    assert ventricle(found.native, found.annotated, spacing=found.spacing).systole == 4


def test_volumes_need_two_phases(drawn):
    found = masks(drawn)
    with pytest.raises(ValueError, match="fewer than two phases"):
        ventricle(found.native[:1], found.annotated[:1], spacing=found.spacing)


def test_wrong_contours_are_refused(drawn):
    write_contour(drawn / "a", 9999, "i", circle(20, 20, 5))
    assert refused(drawn, "a") == "contour-without-image"
    write_contour(drawn / "b", number(0, 1, 4), "i", circle(45, 20, 5))
    assert refused(drawn, "b") == "contour-outside"
    write_contour(drawn / "d", number(0, 1, 4), "i", circle(20.4, 20.4, 0.1))
    assert refused(drawn, "d") == "contour-empty"
    (drawn / "e").mkdir()
    (drawn / "e" / "notes.txt").write_text("none")
    assert refused(drawn, "e") == "no-contour"
    (drawn / "c" / "again").mkdir()
    name = f"IM-0001-{number(0, 1, 4):04d}-icontour-manual.txt"
    (drawn / "c" / "again" / name).write_bytes((drawn / "c" / "i-contours" / name).read_bytes())
    assert refused(drawn) == "contour-twice"
    assert refused(drawn, "../c") == "path-outside-root"


@pytest.mark.parametrize(
    "text", ["", "1 2\n3 4\n", "1 2\n3 4\n5\n", "a b\n1 2\n3 4\n", "1 2\n3 4\nnan 5\n", "1 2\n3 4\né 5\n"]
)
def test_malformed_contours_are_refused(drawn, text):
    (drawn / "f").mkdir()
    (drawn / "f" / f"IM-0001-{number(0, 1, 4):04d}-icontour-manual.txt").write_text(text, encoding="utf-8")
    assert refused(drawn, "f") == "contour-malformed"
