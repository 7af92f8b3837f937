"""Pixels: compressed syntaxes, declared sizes, damage."""

from __future__ import annotations

import functools
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import gdcm
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from fl_client.data.cine import files as limits
from fl_client.data.cine import pixels
from fl_client.data.cine.dicom import read_frames
from fl_client.data.cine.pixels import read_pixels
from fl_client.data.findings import UnreadableError

sys.path.insert(0, str(Path(__file__).parent))
from mr_files import header, opened, read, save, uid, volume, write_cine, write_enhanced, write_still

LOSSLESS = gdcm.TransferSyntax.JPEGLosslessProcess14_1
GDCM = {"lossless": LOSSLESS, "lossless 14": gdcm.TransferSyntax.JPEGLosslessProcess14}


def refused(root: Path, named: str = "p") -> UnreadableError:
    with pytest.raises(UnreadableError) as error:
        opened(root, named).voxels()
    return error.value


def by_gdcm(source: Path, target: Path, syntax: int) -> None:
    reader, writer, change = gdcm.ImageReader(), gdcm.ImageWriter(), gdcm.ImageChangeTransferSyntax()
    reader.SetFileName(str(source))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(syntax))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(target))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless], ids=lambda s: s.name)
def test_compressed_stacks_are_decoded_exactly(tmp_path, syntax):
    truth = volume(8, 3, 40, 36)
    for path in write_cine(tmp_path / "p", truth):
        image = pydicom.dcmread(path)
        image.compress(syntax, generate_instance_uid=False)
        image.save_as(path)
    np.testing.assert_array_equal(opened(tmp_path).voxels(), truth)


@pytest.mark.parametrize("syntax", GDCM.values(), ids=GDCM.keys())
def test_jpeg_lossless_is_decoded_exactly(tmp_path, syntax):
    truth = volume(8, 2)
    for path in write_cine(tmp_path / "raw", truth):
        (tmp_path / "p").mkdir(exist_ok=True)
        by_gdcm(path, tmp_path / "p" / path.name, syntax)
    np.testing.assert_array_equal(opened(tmp_path).voxels(), truth)


def test_a_compressed_enhanced_file_is_decoded_exactly(tmp_path):
    truth, ones = volume(8, 3), np.ones((8, 3))
    path = write_enhanced(tmp_path / "p", truth, slopes=2 * ones, intercepts=ones)
    image = pydicom.dcmread(path)
    image.compress(JPEGLSLossless, generate_instance_uid=False)
    image.save_as(path)
    np.testing.assert_array_equal(opened(tmp_path).voxels(), 2.0 * truth + 1)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_uncompressed_types_and_byte_orders(tmp_path, syntax, bits, signed):
    values = volume(1, 1)[0, 0].astype(np.int64) % 200 - (100 if signed else 0)
    still = {"BitsAllocated": bits, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": int(signed)}
    path = write_still(tmp_path / "p", values, **still)
    if syntax is not None:
        image = pydicom.dcmread(path)
        if syntax == ExplicitVRBigEndian:
            image.PixelData = values.astype(f">{'i' if signed else 'u'}{bits // 8}").tobytes()
            image["PixelData"].VR = "OB" if bits == 8 else "OW"
        image.file_meta.TransferSyntaxUID = syntax
        pydicom.dcmwrite(path, image, little_endian=syntax != ExplicitVRBigEndian,
                         implicit_vr=syntax == ImplicitVRLittleEndian)  # fmt: skip
    np.testing.assert_array_equal(read_pixels(read_frames(path))[0], values)


@pytest.mark.parametrize(
    "name",
    ["MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm",
     "MR_small_jpeg_ls_lossless.dcm", "J2K_pixelrep_mismatch.dcm", "JPEGLSNearLossless_16.dcm"],
)  # fmt: skip
def test_other_writers_files_give_what_pydicom_gives(tmp_path, name):
    image = pydicom.dcmread(get_testdata_file(name))
    expected = image.pixel_array.astype(np.float64)
    if "RescaleSlope" in image:
        expected = expected * float(image.RescaleSlope) + float(image.RescaleIntercept)
    for keyword in ("PatientName", "PatientBirthDate", "OtherPatientIDsSequence", "OtherPatientIDs"):
        if keyword in image:
            delattr(image, keyword)
    if image.SOPClassUID.startswith("1.2.840.10008.5.1.4.1.1.7"):
        image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
    image.save_as(tmp_path / "p")
    np.testing.assert_allclose(read_pixels(read_frames(tmp_path / "p"))[0], expected)


@pytest.mark.parametrize(
    ("elements", "check"),
    [
        ({"Rows": 65535, "Columns": 65535}, "image-too-large"),
        ({"Rows": 8192, "Columns": 8192, "NumberOfFrames": 20_000}, "image-too-large"),
        ({"NumberOfFrames": 2_000_000_000}, "image-too-large"),
        ({"Rows": 0}, "image-too-large"),
        ({"BitsAllocated": 64, "BitsStored": 64}, "image-format"),
        ({"BitsAllocated": 1, "BitsStored": 1}, "image-format"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_sizes_are_refused_before_anything_is_decoded(tmp_path, elements, check, compressed, monkeypatch):
    path = write_still(tmp_path / "p", volume(1, 1)[0, 0])
    image = pydicom.dcmread(path)
    if compressed:
        image.compress(RLELossless)
    for keyword, value in elements.items():
        setattr(image, keyword, value)
    image.save_as(path)
    monkeypatch.setattr(pixels.subprocess, "run", None)  # no decoder starts
    start = time.monotonic()
    with pytest.raises(UnreadableError) as error:
        read_pixels(read_frames(path))
    assert error.value.check == check
    assert time.monotonic() - start < 1.0


def test_a_stack_too_large_in_all_is_refused(tmp_path, monkeypatch):
    write_cine(tmp_path / "p", volume(8, 2))
    monkeypatch.setattr(pixels, "MAX_VOXELS", 8 * 2 * 14 * 12 - 1)
    assert refused(tmp_path).check == "image-too-large"


def test_a_stream_larger_than_its_header_cannot_fill_memory_or_disk(tmp_path):
    # 4 billion pixels of nothing in 100 bytes of JPEG 2000, declared as 40 x 36
    image = pydicom.dcmread(write_still(tmp_path / "small", volume(1, 1, 40, 36)[0, 0]))
    image.compress(JPEG2000Lossless)
    stream = bytearray(next(pydicom.encaps.generate_frames(image.PixelData, number_of_frames=1)))
    at = stream.index(b"\xff\x51") + 6  # the SIZ marker: width and height
    stream[at : at + 8] = b"\0\0\xff\xff\0\0\xff\xff"
    image.PixelData = encapsulate([bytes(stream)])
    image.save_as(tmp_path / "p")
    with pytest.raises(UnreadableError, match="dicom-undecodable"):
        read_pixels(read_frames(tmp_path / "p"))


def test_a_decoder_that_crashes_or_hangs_is_only_an_unreadable_file(tmp_path, monkeypatch):
    image = pydicom.dcmread(write_still(tmp_path / "raw", np.random.default_rng(0).integers(0, 4096, (128, 128))))
    image.save_as(tmp_path / "raw")
    by_gdcm(tmp_path / "raw", tmp_path / "p", LOSSLESS)
    damaged = bytearray((tmp_path / "p").read_bytes())
    start = damaged.index(b"\xff\xd8\xff")
    for at in random.Random(14).sample(range(start + 2, start + 120), 8):  # ends GDCM by SIGABRT
        damaged[at] ^= 0xFF
    (tmp_path / "q").write_bytes(damaged)
    with pytest.raises(UnreadableError, match="dicom-undecodable"):
        read_pixels(read_frames(tmp_path / "q"))
    monkeypatch.setattr(pixels, "SECONDS", 0.0)
    monkeypatch.setattr(pixels.sys, "executable", _sleeper(tmp_path))
    with pytest.raises(UnreadableError, match="not decoded in 1 s"):
        read_pixels(read_frames(tmp_path / "p"))


def _sleeper(folder: Path) -> str:
    script = folder / "sleeper"
    script.write_text("#!/bin/sh\nexec sleep 60\n")
    script.chmod(0o700)
    return str(script)


def test_deflated_files_are_refused_unread(tmp_path):
    image = pydicom.dcmread(write_still(tmp_path / "p", np.zeros((4096, 4096))))
    image.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    pydicom.dcmwrite(tmp_path / "p", image, little_endian=True, implicit_vr=False)
    assert (tmp_path / "p").stat().st_size < 100_000
    assert refused(tmp_path).check == "dicom-syntax"


def test_links_out_of_the_site_are_refused(tmp_path):
    root, outside = tmp_path / "site", tmp_path / "elsewhere"
    write_cine(root / "p", volume(8, 2))
    other = write_still(outside / "x", volume(1, 1)[0, 0])
    (root / "p" / "link").symlink_to(other)
    assert refused(root).check == "path-outside-root"
    (root / "p" / "link").unlink()
    (root / "p" / "link").symlink_to(outside)
    assert refused(root).check == "path-linked-folder"
    (root / "q").symlink_to(outside)
    assert refused(root, "q").check == "path-outside-root"
    assert refused(root, "../elsewhere").check == "path-outside-root"


def test_links_within_the_site_are_followed(tmp_path):
    truth = volume(8, 2)
    files = write_cine(tmp_path / "store", truth)
    (tmp_path / "p").mkdir()
    for path in files:
        (tmp_path / "p" / path.name).symlink_to(path)
    np.testing.assert_array_equal(opened(tmp_path).voxels(), truth)


def test_what_is_no_image_folder(tmp_path, monkeypatch):
    assert refused(tmp_path, "absent").check == "file-missing"
    (tmp_path / "p").mkdir()
    assert refused(tmp_path).check == "folder-empty"
    (tmp_path / "p" / "notes.txt").write_text("x" * 500)
    assert refused(tmp_path).check == "not-dicom"
    os.mkfifo(tmp_path / "p" / "pipe")
    assert refused(tmp_path).check == "file-not-regular"
    (tmp_path / "p" / "pipe").unlink()
    monkeypatch.setattr(limits, "MAX_FILES", 10)
    write_cine(tmp_path / "p", volume(8, 2))
    assert refused(tmp_path).check == "too-many-files"
    monkeypatch.undo()
    monkeypatch.setattr(limits, "MAX_TOTAL_BYTES", 5000)
    assert refused(tmp_path).check == "folder-too-large"
    monkeypatch.setattr(limits, "MAX_FILE_BYTES", 500)
    assert refused(tmp_path).check == "file-too-large"


def test_reports_and_directories_are_left_out_and_counted(tmp_path):
    truth = volume(8, 2)
    write_cine(tmp_path / "p", truth)
    report = header(SOPClassUID="1.2.840.10008.5.1.4.1.1.88.22", Modality="SR", SOPInstanceUID=uid("report"))
    save(report, tmp_path / "p" / "report")
    cine = opened(tmp_path)
    np.testing.assert_array_equal(cine.voxels(), truth)
    assert cine.repairs == ("other files in the folder left out",)


@functools.cache
def _whole(kind: str) -> tuple[dict[str, bytes], dict[str, np.ndarray]]:
    """Files of an undamaged sample, and its arrays."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if kind == "enhanced":
            ones = np.ones((8, 2))
            write_enhanced(root / "p" / "e", volume(8, 2), slopes=ones, intercepts=0 * ones)
        else:
            write_cine(root / "p", volume(8, 2))
        return {p.name: p.read_bytes() for p in sorted((root / "p").iterdir())}, dict(read(root).arrays)


def _damaged(kind: str, change) -> UnreadableError | dict[str, np.ndarray]:
    files, _ = _whole(kind)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "p").mkdir()
        for name, content in change(files).items():
            (root / "p" / name).write_bytes(content)
        try:
            return dict(read(root).arrays)
        except UnreadableError as error:
            return error


@settings(max_examples=150, deadline=None)
@given(kind=st.sampled_from(["classic", "enhanced"]), data=st.data())
def test_damaged_bytes_raise_nothing_but_unreadable(kind, data):
    def change(files):
        name = data.draw(st.sampled_from(sorted(files)))
        content = bytearray(files[name])
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
            content[at] = data.draw(st.integers(0, 255))
        return {**files, name: bytes(content)}

    found = _damaged(kind, change)
    if isinstance(found, dict):
        _, whole = _whole(kind)
        assert {name: (a.shape, a.dtype) for name, a in found.items()} == {
            n: (a.shape, a.dtype) for n, a in whole.items()
        }
        assert all(np.isfinite(array.astype(np.float32)).all() for array in found.values())


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(["classic", "enhanced"]), data=st.data())
def test_truncated_files_never_pass(kind, data):
    def change(files):
        name = data.draw(st.sampled_from(sorted(files)))
        return {**files, name: files[name][: data.draw(st.integers(0, len(files[name]) - 1))]}

    assert isinstance(_damaged(kind, change), UnreadableError)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_a_damaged_header_of_one_image_never_moves_it_silently(data):
    """Any byte of what orders an image: refused, told as a repair, or harmless."""

    def change(files):
        name = data.draw(st.sampled_from(sorted(files)))
        image = pydicom.dcmread(__import__("io").BytesIO(files[name]), stop_before_pixels=True)
        keyword = data.draw(st.sampled_from(["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]))
        values = "\\".join(map(str, image[keyword].value)).encode()
        at = files[name].index(values[:10]) + data.draw(st.integers(0, len(values) - 1))
        content = bytearray(files[name])
        content[at] = data.draw(st.sampled_from(list(b"0123456789.-")))
        return {**files, name: bytes(content)}

    found = _damaged("classic", change)
    if isinstance(found, dict):
        np.testing.assert_array_equal(found["video"], _whole("classic")[1]["video"])
