"""A single image a sample."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl_client.data.findings import UnreadableError
from fl_client.data.image import IMAGE
from fl_shared.site import ImageFiles
from fl_shared.study import ModalityPlan

sys.path.insert(0, str(Path(__file__).parent / "cine"))
from mr_files import SPACING, ds, place, uid, volume, write_cine, write_scouts, write_still


def read(root: Path, named: str = "p", *, size: int = 16, field_of_view: float | None = None, **keys):
    plan = ModalityPlan(kind="image", size=size, field_of_view=field_of_view)
    return IMAGE.read(root, named, plan=plan, mapped=ImageFiles(kind="image", column="path", **keys))


def refused(root: Path, named: str = "p", **keys) -> str:
    with pytest.raises(UnreadableError) as error:
        read(root, named, **keys)
    return f"{error.value.check}: {error.value.detail}"


def z_scored(pixels: np.ndarray) -> np.ndarray:
    low, high = np.percentile(pixels, [1, 99])
    clipped = np.clip(pixels.astype(np.float64), low, high)
    return (clipped - clipped.mean()) / clipped.std()


def write_lge(folder: Path, *, levels: int = 5, series: int = 30, seed: int = 7, **elements) -> np.ndarray:
    """A stack of late enhancement images of 16 x 16 pixels of 1 mm, in no order; returns them from base to apex."""
    truth = volume(1, levels, 16, 16, seed=seed)[0]
    about = {"SeriesDescription": "LGE_SA", "SeriesInstanceUID": uid("series", series), "SeriesNumber": series}
    for number, level in enumerate(np.random.default_rng(seed).permutation(levels)):
        where = {"ImagePositionPatient": ds(*place(level)), "InstanceNumber": number, "PixelSpacing": ds(1, 1)}
        write_still(folder / f"{series}-{number}", truth[level], **{**about, **where, **elements})
    return truth


def write_radiograph(path: Path, pixels: np.ndarray, **elements) -> Path:
    about = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1", "Modality": "DX", "SeriesDescription": "Chest"}
    about |= {
        "ImageOrientationPatient": None,
        "ImagePositionPatient": None,
        "ViewPosition": "PA",
        "PixelSpacing": ds(1, 1),
    }
    return write_still(path, pixels, **{**about, **elements})


def test_the_middle_slice_of_the_late_enhancement_is_taken(tmp_path):
    truth = write_lge(tmp_path / "p")
    write_cine(tmp_path / "p", volume(12, 3))
    write_scouts(tmp_path / "p")
    sample = read(tmp_path, sequence="lge")
    layout = IMAGE.layout(ModalityPlan(kind="image", size=16))
    assert {name: (a.shape, str(a.dtype)) for name, a in sample.arrays.items()} == dict(layout)
    np.testing.assert_allclose(sample.arrays["pixels"][0], z_scored(truth[2]), atol=2e-3)
    np.testing.assert_array_equal(sample.arrays["spacing"], [1, 1])
    assert sample.repairs == ()


def test_a_cine_is_no_late_enhancement(tmp_path):
    write_cine(tmp_path / "p", volume(12, 3))
    write_scouts(tmp_path / "p")
    assert refused(tmp_path, sequence="lge") == (
        "not-the-sequence: p: no image of the sequence 'lge'; series: cine, scout"
    )
    write_scouts(tmp_path / "q")
    assert refused(tmp_path, "q").startswith("not-the-sequence")


def test_the_middle_time_of_a_perfusion_series(tmp_path):
    truth = volume(41, 3, 16, 16)
    about = {"SeriesDescription": "first pass perf", "PixelSpacing": ds(1, 1)}
    write_cine(tmp_path / "p", truth, times="TemporalPositionIdentifier", **about)
    sample = read(tmp_path, sequence="perfusion")
    np.testing.assert_allclose(sample.arrays["pixels"][0], z_scored(truth[20, 1]), atol=2e-3)


def test_a_radiograph_is_read_with_its_detector_spacing(tmp_path):
    pixels = volume(1, 1, 32, 32)[0, 0]
    write_radiograph(tmp_path / "p.dcm", pixels, PixelSpacing=None, ImagerPixelSpacing=ds(0.143, 0.143))
    sample = read(tmp_path, "p.dcm", size=32, sequence="radiograph")
    np.testing.assert_allclose(sample.arrays["pixels"][0], z_scored(pixels), atol=2e-3)
    np.testing.assert_allclose(sample.arrays["spacing"], [0.143, 0.143], rtol=1e-6)


def test_white_and_black_are_not_mixed_up(tmp_path):
    pixels = volume(1, 1, 32, 32)[0, 0]
    write_radiograph(tmp_path / "a", pixels)
    write_radiograph(tmp_path / "b", 4095 - pixels, PhotometricInterpretation="MONOCHROME1")
    a, b = (read(tmp_path, name, size=32).arrays["pixels"] for name in "ab")
    np.testing.assert_allclose(a, b, atol=2e-3)


def test_the_frontal_view_is_preferred(tmp_path):
    pixels = volume(1, 1, 32, 32)[0, 0]
    write_radiograph(tmp_path / "p" / "1", pixels, SeriesNumber=1)
    write_radiograph(tmp_path / "p" / "2", volume(1, 1, 32, 32, seed=3)[0, 0], ViewPosition="LL", SeriesNumber=2)
    sample = read(tmp_path, size=32, sequence="radiograph")
    np.testing.assert_allclose(sample.arrays["pixels"][0], z_scored(pixels), atol=2e-3)


def test_unknown_spacing_is_counted_or_refused_where_it_is_needed(tmp_path):
    write_radiograph(tmp_path / "p.dcm", volume(1, 1, 32, 24)[0, 0], PixelSpacing=None)
    sample = read(tmp_path, "p.dcm")
    assert sample.arrays["spacing"].tolist() == [0, 0]
    assert sample.repairs == ("pixel spacing unknown",)
    assert refused(tmp_path, "p.dcm", field_of_view=200.0).startswith("geometry-missing")


def test_series_restricts_and_several_alike_are_counted(tmp_path):
    magnitude = write_lge(tmp_path / "p", series=30, SeriesDescription="LGE_SA_MAG")
    psir = write_lge(tmp_path / "p", series=31, seed=8, SeriesDescription="LGE_SA_PSIR")
    late = read(tmp_path, sequence="lge")
    np.testing.assert_allclose(late.arrays["pixels"][0], z_scored(psir[2]), atol=2e-3)
    assert late.repairs == ("several series alike: the latest is taken",)
    chosen = read(tmp_path, sequence="lge", series="mag$")
    np.testing.assert_allclose(chosen.arrays["pixels"][0], z_scored(magnitude[2]), atol=2e-3)
    assert chosen.repairs == ()


def test_any_takes_what_is_there_but_no_scout(tmp_path):
    write_scouts(tmp_path / "p")
    truth = write_still(
        tmp_path / "p" / "x", volume(1, 1, 16, 16)[0, 0], SeriesDescription="haste", PixelSpacing=ds(1, 1)
    )
    assert truth.is_file()
    np.testing.assert_allclose(read(tmp_path).arrays["pixels"][0], z_scored(volume(1, 1, 16, 16)[0, 0]), atol=2e-3)


@pytest.mark.parametrize(
    ("elements", "check"),
    [
        ({"PatientName": "Doe^Jane"}, "identity-name"),
        ({"BurnedInAnnotation": "YES"}, "identity-burned-in"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "identity-secondary-capture"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "image-colour"),
    ],
)
def test_what_is_refused(tmp_path, elements, check):
    write_radiograph(tmp_path / "p.dcm", volume(1, 1, 32, 32)[0, 0], **elements)
    assert refused(tmp_path, "p.dcm").startswith(check)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damaged_bytes_raise_nothing_but_unreadable(data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "image"
    content = bytearray(write_radiograph(folder / "p", volume(1, 1, 16, 16)[0, 0]).read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=6)):
        content[at] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content) - 1))]
    (folder / "p").write_bytes(content)
    try:
        pixels = read(folder).arrays["pixels"]
    except UnreadableError:
        return
    assert pixels.shape == (1, 16, 16)
    assert np.isfinite(pixels.astype(np.float32)).all()


def test_spacing_is_that_of_the_study(tmp_path):
    write_still(tmp_path / "p", volume(1, 1, 40, 48)[0, 0])
    sample = read(tmp_path, size=20, field_of_view=30.0)
    np.testing.assert_allclose(sample.arrays["spacing"], [20 * SPACING[0] / 20, 24 * SPACING[1] / 20])
