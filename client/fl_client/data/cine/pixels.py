"""Frames -> numbers. Declared sizes are checked before anything is decoded.

The native decoders of compressed syntaxes crash or hang on damaged streams (GDCM: segmentation faults; CharLS: loops
without end), so they run in a process of their own, `pixel_decoder`, with a limit on time, memory and output.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from fl_client.data.cine.dicom import MAX_VOXELS, DicomImage, Frame
from fl_client.data.findings import UnreadableError
from fl_client.data.pixel_decoder import COMPRESSED

NATIVE = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})
MAX_SIDE = 8192
SECONDS = 30.0  # for the decoder to start
SECONDS_A_VOXEL = 2e-6  # JPEG 2000 needs about a tenth


def read_pixels(frames: Sequence[Frame]) -> NDArray[np.float32]:
    """Rescaled values (frame, row, column) of frames of one shape.

    Slope and intercept are the frame's own; MONOCHROME1 (0 is white) is turned over.

    Raises:
        UnreadableError: undecodable, beyond a limit, or other than the header says.
    """
    rows, columns = frames[0].image.rows, frames[0].image.columns
    images = {frame.image.path: frame.image for frame in frames}.values()
    for image in images:
        _check(image)
    if len(frames) * rows * columns > MAX_VOXELS:
        raise UnreadableError("image-too-large", f"{len(frames)} frames of {rows}x{columns} exceed {MAX_VOXELS} voxels")
    if len({image.length is None for image in images}) > 1:
        raise UnreadableError("dicom-syntax", "compressed and uncompressed files in one stack. Save all alike.")
    # file by file, so that a multi-frame file is read once
    order = sorted(range(len(frames)), key=lambda i: (frames[i].image.path, frames[i].number))
    ordered = [frames[i] for i in order]
    stored = _decoded(ordered) if frames[0].image.length is None else map(_native, ordered)
    result = np.empty((len(frames), rows, columns), dtype=np.float32)
    for i, values in zip(order, stored, strict=True):
        result[i] = _rescaled(values, frames[i])
    return result


def _check(image: DicomImage) -> None:
    """Before decoding: can the declared picture be read, is it within the limits, does the file hold it?"""
    name = image.path.name
    if image.syntax not in (COMPRESSED if image.length is None else NATIVE):
        raise UnreadableError("dicom-syntax", f"{name}: {UID(image.syntax).name} is not read")
    if image.samples != 1 or not image.photometric.startswith("MONOCHROME"):
        raise UnreadableError("image-colour", f"{name}: {image.samples} samples, {image.photometric or 'no kind'}")
    if image.allocated not in (8, 16, 32) or not 1 <= image.stored <= image.allocated:
        raise UnreadableError("image-format", f"{name}: {image.stored} of {image.allocated} bits")
    size = image.frames * image.rows * image.columns
    if not (1 <= image.rows <= MAX_SIDE and 1 <= image.columns <= MAX_SIDE):
        raise UnreadableError("image-too-large", f"{name}: {image.rows} x {image.columns} pixels")
    if image.length is not None:
        needed, there = size * image.allocated // 8, image.path.stat().st_size - image.offset
        if image.length not in (needed, needed + needed % 2) or there < image.length:
            detail = f"{name}: {needed} bytes of pixels needed, {image.length} declared, {there} there"
            raise UnreadableError("dicom-pixel-length", detail)


def _options(image: DicomImage, *, frames: int) -> dict[str, Any]:
    """What pydicom's decoders need to know."""
    return {
        "rows": image.rows,
        "columns": image.columns,
        "number_of_frames": frames,
        "samples_per_pixel": 1,
        "bits_allocated": image.allocated,
        "bits_stored": image.stored,
        "photometric_interpretation": image.photometric,
        "pixel_representation": int(image.signed),
        "pixel_keyword": "PixelData",
        "pixel_vr": "OB" if image.allocated == 8 else "OW",
    }


def _native(frame: Frame) -> NDArray[Any]:
    image = frame.image
    size = image.rows * image.columns * image.allocated // 8
    try:
        with image.path.open("rb") as file:
            file.seek(image.offset + frame.number * size)
            value = file.read(size)
        values, _ = get_decoder(UID(image.syntax)).as_array(value, raw=True, **_options(image, frames=1))
    except (OSError, ValueError, RuntimeError) as error:
        raise UnreadableError("dicom-undecodable", f"{image.path.name}: {type(error).__name__}") from error
    return values


def _decoded(frames: Sequence[Frame]) -> Iterator[NDArray[Any]]:
    """What the decoder process writes, frame by frame."""
    jobs = []
    for path, group in groupby(frames, key=lambda frame: frame.image.path):
        some = list(group)
        image = some[0].image
        job = {"path": str(path), "offset": image.offset, "syntax": image.syntax, "dtype": _dtype(image).str}
        numbers = [frame.number for frame in some]
        jobs.append({**job, "numbers": numbers, "options": _options(image, frames=image.frames)})
    shape = (frames[0].image.rows, frames[0].image.columns)
    sizes = [shape[0] * shape[1] * _dtype(frame.image).itemsize for frame in frames]
    seconds = math.ceil(SECONDS + SECONDS_A_VOXEL * len(frames) * shape[0] * shape[1])
    command = [sys.executable, "-P", "-m", "fl_client.data.pixel_decoder", str(sum(sizes)), str(seconds)]
    which = f"{frames[0].image.path.name} or a file read with it"
    with tempfile.TemporaryFile() as out:
        try:
            done = subprocess.run(
                command, input=json.dumps(jobs).encode(), stdout=out, stderr=subprocess.DEVNULL, timeout=seconds
            )
        except subprocess.TimeoutExpired as error:
            raise UnreadableError("dicom-undecodable", f"{which}: not decoded in {seconds} s") from error
        if done.returncode != 0 or out.seek(0, 2) != sum(sizes):
            raise UnreadableError("dicom-undecodable", f"{which}: the decoder ended with {done.returncode}")
        out.seek(0)
        for frame, size in zip(frames, sizes, strict=True):
            yield np.frombuffer(out.read(size), dtype=_dtype(frame.image)).reshape(shape)


def _dtype(image: DicomImage) -> np.dtype[Any]:
    return np.dtype(f"<{'i' if image.signed else 'u'}{image.allocated // 8}")


def _rescaled(values: NDArray[Any], frame: Frame) -> NDArray[np.float32]:
    """DICOM PS3.3 C.11.1: output = slope x stored + intercept."""
    slope, intercept = frame.slope, frame.intercept
    if frame.image.photometric == "MONOCHROME1":  # stored -> lowest + highest - stored
        ends = -1 if frame.image.signed else 2**frame.image.stored - 1
        slope, intercept = -slope, intercept + slope * ends
    with np.errstate(over="ignore", invalid="ignore"):  # told below
        rescaled = values.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    if frame.slope == 0 or not np.isfinite(rescaled).all():
        raise UnreadableError("dicom-rescale", f"{frame.image.path.name}: slope {frame.slope}")
    return rescaled
