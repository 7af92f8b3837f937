"""HD95 against all pairs of surface voxels and MONAI; empty masks, frames, slices that nobody drew on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance

from fl_shared.metrics.segmentation import distances, hausdorff_95

SPACING = (8.0, 2.0, 1.5)


def ball(shape: tuple[int, ...], centre: tuple[float, ...], radius: float) -> np.ndarray:
    """Of radius mm, with ragged edges."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    far = np.linalg.norm((places - centre) * np.array(SPACING), axis=-1)
    return (far < radius + np.random.default_rng(1).normal(0, 1, shape)).astype(np.uint8)


def surface(mask: np.ndarray) -> np.ndarray:
    """Places (n, 3) in mm of voxels with a neighbour across a face that is not of the structure."""
    found = []
    for place in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                beside = place.copy()
                beside[axis] += step
                if not (0 <= beside[axis] < mask.shape[axis]) or not mask[tuple(beside)]:
                    found.append(tuple(place))
    return np.array(sorted(set(found))) * np.array(SPACING)


def test_hd95_is_that_of_all_pairs() -> None:
    shape = (5, 20, 24)
    one, other = ball(shape, (2, 9, 11), 13.0), ball(shape, (2.5, 11, 13), 11.0)
    apart = np.linalg.norm(surface(one)[:, None] - surface(other)[None], axis=-1)
    expected = max(np.percentile(apart.min(1), 95), np.percentile(apart.min(0), 95))
    assert expected > 3
    assert hausdorff_95(one, other, SPACING) == pytest.approx(expected, abs=1e-9)
    assert hausdorff_95(other, one, SPACING) == pytest.approx(expected, abs=1e-9)
    assert hausdorff_95(one, one, SPACING) == 0


def test_hd95_of_empty_masks() -> None:
    drawn, empty = ball((5, 20, 24), (2, 9, 11), 13.0), np.zeros((5, 20, 24), np.uint8)
    assert math.isnan(hausdorff_95(empty, empty, SPACING))
    assert hausdorff_95(empty, drawn, SPACING) == hausdorff_95(drawn, empty, SPACING)
    assert hausdorff_95(empty, drawn, SPACING) == pytest.approx(np.sqrt(40.0**2 + 40**2 + 36**2))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.002, 0.1, 0.9])
def test_equals_monai(seed, share) -> None:
    """Single voxels, ragged masks and nearly full ones, at the border too; MONAI counts in float32."""
    rng = np.random.default_rng(seed)
    one, other = rng.random((2, 6, 19, 23)) < share
    one[0, 0, 0] = other[5, 18, 3] = True
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (one, other)]
    expected = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=list(SPACING))
    assert hausdorff_95(one, other, SPACING) == pytest.approx(float(expected), rel=1e-5)


def test_an_image_is_two_dimensions_as_well() -> None:
    one, other = np.zeros((2, 10, 12), bool)
    one[3, 4], other[7, 7] = True, True
    assert hausdorff_95(one, other, (2.0, 1.0)) == pytest.approx(math.hypot(8, 3))


def test_frames_are_summed_up_and_only_drawn_slices_count() -> None:
    rng = np.random.default_rng(0)
    predicted, drawn = rng.integers(0, 3, (2, 4, 5, 9, 9))
    known = rng.random((4, 5)) < 0.6
    known[1], known[2], known[3] = False, [0, 1, 0, 1, 0], [0, 1, 1, 0, 0]
    predicted[2][drawn[2] == 2], drawn[2][drawn[2] == 2] = 0, 0
    predicted[2][predicted[2] == 2] = 0  # neither has the second structure in this frame
    predicted[3][predicted[3] == 1] = 0  # only one of them has the first one
    found = distances(predicted, drawn, known, spacing=SPACING, structures=2)
    expected = np.zeros((2, 2))
    for frame in (0, 2, 3):
        slices = np.flatnonzero(known[frame])
        within = slice(slices[0], slices[-1] + 1)
        for c in (1, 2):
            masks = []
            for maps in (predicted, drawn):
                mask = maps[frame] == c
                mask[~known[frame]] = False
                masks.append(mask[within])
            far = hausdorff_95(*masks, SPACING)
            expected[c - 1] += (0, 0) if math.isnan(far) else (far, 1)
    np.testing.assert_array_equal(found, expected)
    assert found[:, 1].tolist() == [3, 2]
    alone = distances(predicted[3:], drawn[3:], known[3:], spacing=SPACING, structures=1)
    assert alone[0, 0] == pytest.approx(np.linalg.norm(np.array([2, 9, 9]) * SPACING))


def test_without_a_known_spacing_nothing_is_measured() -> None:
    maps = np.ones((1, 2, 4, 4), int)
    assert (distances(maps, maps, np.ones((1, 2), bool), spacing=(8.0, 0.0, 1.0), structures=1) == 0).all()
