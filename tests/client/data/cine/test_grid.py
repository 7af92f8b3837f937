"""From the native grid to the study's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import zoom

from fl_client.data.cine import CINE
from fl_client.data.cine.grid import Grid, periodic
from fl_client.data.findings import UnreadableError

sys.path.insert(0, str(Path(__file__).parent))
from mr_files import DISTANCE, SPACING, plan, read, volume, write_cine


def grid(shape, spacing=(1.0, 1.0, 8.0), *, frames=8, slices=3, size=16, field_of_view=None) -> Grid:
    return Grid.of(shape, spacing, frames=frames, slices=slices, size=size, field_of_view=field_of_view)


def test_a_sample_has_the_layout_it_promises(tmp_path):
    write_cine(tmp_path / "p", volume(12, 5))
    of = plan(frames=10, slices=3, size=20)
    sample = read(tmp_path, of=of)
    assert {name: (a.shape, str(a.dtype)) for name, a in sample.arrays.items()} == dict(CINE.layout(of))
    assert sample.arrays["frame_mask"].all()
    assert sample.arrays["slice_mask"].all()
    assert sample.repairs == ()
    # the longer side is 21 mm: 14 rows or 17 columns; of five slices 0, 2 and 4 are kept
    expected = [14 * SPACING[0] / 20, 17 * SPACING[1] / 20, 2 * DISTANCE]
    np.testing.assert_allclose(sample.arrays["spacing"], expected, rtol=1e-5)


def test_values_are_clipped_and_z_scored_over_the_whole_series():
    values = np.random.default_rng(0).normal(100, 20, (8, 4, 16, 16)).astype(np.float32)
    values[0, 0, 0, 0] = 1e6  # an outlier must not shrink the rest
    low, high = np.percentile(values, [1, 99])
    expected = np.clip(values, low, high)
    expected = (expected - expected.mean()) / expected.std()
    same = grid((8, 4, 16, 16), slices=4).images(values, "p")
    assert same.dtype == np.float16
    np.testing.assert_allclose(same, expected, atol=2e-3)


def test_one_slice_is_the_middle_one_scaled_as_the_whole_series_is():
    values = volume(8, 9, 16, 16).astype(np.float32)
    one = grid((8, 9, 16, 16), slices=1)
    assert one.slices.tolist() == [4]
    all_slices = grid((8, 9, 16, 16), slices=9).images(values, "p")
    np.testing.assert_array_equal(one.images(values, "p")[:, 0], all_slices[:, 4])


@pytest.mark.parametrize(
    ("native", "wanted", "kept"),
    [(9, 1, [4]), (12, 1, [6]), (9, 3, [1, 4, 7]), (10, 5, [1, 3, 5, 7, 9]), (12, 8, [0, 2, 3, 5, 6, 8, 9, 11]),
     (3, 8, [0, 1, 2])],
)  # fmt: skip
def test_slices_are_spread_evenly(native, wanted, kept):
    assert grid((8, native, 16, 16), slices=wanted).slices.tolist() == kept


def test_a_stack_of_fewer_slices_is_masked(tmp_path):
    write_cine(tmp_path / "p", volume(8, 2))
    sample = read(tmp_path, of=plan(slices=4))
    assert sample.arrays["slice_mask"].tolist() == [True, True, False, False]
    assert not sample.arrays["video"][:, 2:].any()
    assert sample.arrays["spacing"][2] == pytest.approx(DISTANCE, abs=1e-3)
    assert sample.repairs == ("fewer slices than the study's",)


@settings(max_examples=60, deadline=None)
@given(phases=st.integers(6, 60), frames=st.integers(2, 64))
def test_time_runs_in_a_circle(phases, frames):
    weights = periodic(phases, frames).astype(np.float64)
    np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-5)
    assert (weights >= 0).all()
    assert (weights.sum(axis=0) > 0).all() or frames > phases  # no phase is lost
    # the first harmonic of a beat keeps its phase exactly and loses height only where frames are few
    beat = np.exp(2j * np.pi * np.arange(phases) / phases)
    seen = weights @ beat
    expected = np.exp(2j * np.pi * np.arange(frames) / frames)
    if frames > 2:
        assert np.abs(np.angle(seen / expected)).max() < np.pi / phases


def test_interpolation_in_time_wraps_from_the_last_phase_to_the_first():
    weights = periodic(10, 20)
    np.testing.assert_allclose(weights[19, [9, 0]], [0.5, 0.5])
    np.testing.assert_array_equal(periodic(16, 16), np.eye(16, dtype=np.float32))


def test_a_coarser_plane_is_the_mean_of_what_it_covers():
    values = volume(8, 1, 64, 64).astype(np.float32)
    fine = grid((8, 1, 64, 64), slices=1, size=64).images(values, "p").astype(np.float64)
    coarse = grid((8, 1, 64, 64), slices=1, size=8).images(values, "p").astype(np.float64)
    assert coarse.std() < 0.2 * fine.std()  # noise averages out: nothing is picked pixel by pixel
    assert coarse.mean() == pytest.approx(fine.mean(), abs=0.02)


def test_a_finer_plane_is_bilinear():
    y, x = np.mgrid[:12, :12]
    values = np.broadcast_to((2.0 * x + 3.0 * y).astype(np.float32), (8, 1, 12, 12)).copy()
    fine = grid((8, 1, 12, 12), slices=1, size=24).images(values, "p")[0, 0].astype(np.float64)
    low, high = np.percentile(values, [1, 99])
    clipped = np.clip(values[0, 0], low, high)
    oracle = zoom(clipped, 2, order=1, grid_mode=True, mode="nearest")
    np.testing.assert_allclose(fine, (oracle - clipped.mean()) / clipped.std(), atol=5e-3)


def test_oblong_images_are_padded_dark_and_keep_their_proportions():
    values = np.full((8, 1, 40, 20), 100.0, np.float32)
    values[..., 15:25, 5:15] = 300.0  # a square of 10 mm
    values[..., 0, 0] = 20.0
    placed = grid((8, 1, 40, 20), slices=1, size=40)
    picture = placed.images(values, "p")[0, 0]
    np.testing.assert_array_equal(picture[:, :10], np.full((40, 10), picture.min()))
    rows, columns = np.nonzero(picture > 0.9 * picture.max())
    assert (np.ptp(rows), np.ptp(columns)) == (9, 9)
    np.testing.assert_array_equal(placed.spacing((1.0, 1.0, 8.0)), [1, 1, 8])


@pytest.mark.parametrize(
    ("spacing", "field_of_view"), [((2.0, 1.0, 8.0), 40.0), ((0.5, 1.0, 8.0), 12.0), ((1.0, 1.0, 8.0), 90.0)]
)
def test_a_field_of_view_is_cut_out_about_the_centre(spacing, field_of_view):
    shape = (8, 1, round(50 / spacing[0]), round(50 / spacing[1]))
    values = np.random.default_rng(1).normal(100, 5, shape).astype(np.float32)
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in shape[2:])
    inside = np.hypot(rows[:, None] * spacing[0], columns * spacing[1]) < 5
    values[:, 0, inside] += 200  # a disc of 5 mm about the centre
    placed = grid(shape, spacing, slices=1, size=48, field_of_view=field_of_view)
    seen = placed.images(values, "p")[0, 0].astype(np.float64)
    picture = seen > (seen.max() + np.median(seen)) / 2
    mm = placed.spacing(spacing)
    assert mm[0] * 48 == pytest.approx(field_of_view, abs=spacing[0])
    assert picture.sum() * mm[0] * mm[1] == pytest.approx(np.pi * 25, rel=0.2)
    centre = np.argwhere(picture).mean(axis=0)
    # what is cut off both sides differs by at most a pixel
    np.testing.assert_allclose(centre, [23.5, 23.5], atol=0.5 * max(spacing[0] / mm[0], spacing[1] / mm[1]) + 0.5)


def test_a_blank_series_is_refused(tmp_path):
    write_cine(tmp_path / "p", np.full((8, 2, 14, 12), 7))
    with pytest.raises(UnreadableError, match="image-blank"):
        read(tmp_path)


@settings(max_examples=60, deadline=None)
@given(phases=st.integers(6, 40), frames=st.integers(2, 40), data=st.data())
def test_a_drawn_phase_stands_at_the_nearest_frame(phases, frames, data):
    phase = data.draw(st.integers(0, phases - 1))
    frame, off = grid((phases, 1, 16, 16), frames=frames).frame_of(phase)
    distance = (np.arange(frames) / frames - phase / phases + 0.5) % 1 - 0.5
    assert abs(distance[frame]) == pytest.approx(np.abs(distance).min())
    assert off == pytest.approx(abs(distance[frame]) * frames)
