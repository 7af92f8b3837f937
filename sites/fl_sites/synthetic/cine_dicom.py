"""Writes a phantom as a hospital's folder of DICOM files: the cine stack and a scout, on one of four kinds of scanner.

Every file says that it is synthetic, in words that viewers show (Manufacturer, Institution Name, Series Description,
Image Comments), and names nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.encoders.base import JPEG2000LosslessEncoder, JPEGLSLosslessEncoder
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from fl_sites.synthetic.cine import Cine
from fl_sites.synthetic.hospitals import Scanner

CINE, SCOUT = "cine_sa_bSSFP SYNTHETIC", "localizer SYNTHETIC"
_COMMENT = "SYNTHETIC: drawn by fl-sites synthesize, no patient stands behind this image"
_SYNTAX = {"explicit": ExplicitVRLittleEndian, "jpeg2000": JPEG2000Lossless, "jpegls": JPEGLSLossless}
_ENCODER = {"jpeg2000": (JPEG2000LosslessEncoder, "pylibjpeg"), "jpegls": (JPEGLSLosslessEncoder, "pyjpegls")}
_VIEWS = {"axial": ((1, 0, 0), (0, 1, 0)), "coronal": ((1, 0, 0), (0, 0, -1)), "sagittal": ((0, 1, 0), (0, 0, -1))}
_SCOUT_PIXELS, _SCOUT_SPACING = 48, 8.0  # mm
Pixels = NDArray[np.uint16]


@dataclass(frozen=True, kw_only=True)
class Exam:
    """Whose and when: ``key`` makes every identifier of the exam; sex is M or F; age in years."""

    key: str
    patient_id: str
    sex: str
    age: int
    when: pd.Timestamp

    def uid(self, *parts: object) -> UID:
        """An identifier that is the same in every run."""
        return generate_uid(entropy_srcs=["/".join(map(str, (self.key, *parts)))])


def write_stack(folder: Path, cine: Cine, scanner: Scanner, exam: Exam) -> None:
    """Write the cine as one classic image a file (``scanner.syntax`` explicit, jpeg2000 or jpegls)."""
    image = header(exam, scanner, series=7, description=CINE, uid=MRImageStorage)
    image.file_meta.TransferSyntaxUID = _SYNTAX[scanner.syntax]
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "NORM"]
    describe_cine(image, cine, scanner)
    image.ImageOrientationPatient = decimals(*cine.row, *cine.column)
    image.NominalInterval, image.HeartRate = round(cine.interval), round(60_000 / cine.interval)
    image.CardiacNumberOfImages = scanner.phases
    image.TriggerWindow = 5
    normal = np.cross(cine.row, cine.column)
    for number, (phase, level) in enumerate(_order(scanner), start=1):
        image.InstanceNumber = number
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = exam.uid("cine", phase, level)
        image.ImagePositionPatient = decimals(*cine.positions[level])
        (image.SliceLocation,) = decimals(float(cine.positions[level] @ normal))
        (image.TriggerTime,) = decimals(float(cine.times[phase]))
        image.PixelData = _encoded(cine.video[phase, level], scanner)
        # names that sort neither by slice nor by phase, as exports have them
        image.save_as(folder / f"{image.SOPInstanceUID[-12:]}.dcm", enforce_file_format=True)


def write_scout(folder: Path, rng: np.random.Generator, scanner: Scanner, exam: Exam) -> None:
    """Write three localizer images, which are no cine, in a series of their own."""
    image = header(exam, scanner, series=1, description=SCOUT, uid=MRImageStorage)
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NORM"]
    place = (np.arange(_SCOUT_PIXELS) - (_SCOUT_PIXELS - 1) / 2) * _SCOUT_SPACING
    body = np.where(np.hypot(place / 170, place[:, None] / 120) < 1, 400.0, 10.0)
    image.Rows = image.Columns = _SCOUT_PIXELS
    image.PixelSpacing = decimals(_SCOUT_SPACING, _SCOUT_SPACING)
    (image.SliceThickness,) = decimals(10.0)
    for number, (view, (row, column)) in enumerate(_VIEWS.items(), start=1):
        image.InstanceNumber = number
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = exam.uid("scout", view)
        image.ImageOrientationPatient = decimals(*row, *column)
        image.ImagePositionPatient = decimals(*(place[0] * (np.array(row) + np.array(column))))
        noisy = np.clip(body + rng.normal(0, scanner.noise, body.shape), 0, 4095)
        image.PixelData = noisy.astype("<u2").tobytes()
        image.save_as(folder / f"{image.SOPInstanceUID[-12:]}.dcm", enforce_file_format=True)


def header(exam: Exam, scanner: Scanner, *, series: int, description: str, uid: UID) -> Any:
    """What all images of a series have in common, the label and the de-identification first of all."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = uid
    image.PatientName, image.PatientBirthDate = "", ""
    image.PatientID, image.PatientSex, image.PatientAge = exam.patient_id, exam.sex, f"{exam.age:03d}Y"
    image.PatientIdentityRemoved, image.DeidentificationMethod = "YES", "SYNTHETIC: nobody to identify"
    image.BurnedInAnnotation = "NO"
    image.ImageComments = _COMMENT
    image.InstitutionName = "SYNTHETIC"
    image.Manufacturer, image.ManufacturerModelName = f"SYNTHETIC {scanner.maker}", "fl-sites phantom"
    image.SeriesDescription, image.StudyDescription = description, "cardiac MR, SYNTHETIC"
    image.SeriesNumber, image.Modality, image.BodyPartExamined = series, "MR", "HEART"
    image.StudyInstanceUID, image.SeriesInstanceUID = exam.uid("study"), exam.uid("series", series)
    image.FrameOfReferenceUID = exam.uid("frame of reference")
    image.StudyDate = image.SeriesDate = image.AcquisitionDate = image.ContentDate = exam.when.strftime("%Y%m%d")
    image.StudyTime = image.SeriesTime = image.AcquisitionTime = image.ContentTime = exam.when.strftime("%H%M%S")
    image.AccessionNumber, image.ReferringPhysicianName, image.StudyID = "", "", ""
    image.PatientPosition, image.PositionReferenceIndicator = "HFS", ""
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    (image.MagneticFieldStrength,) = decimals(scanner.tesla)
    return image


def describe_cine(image: Any, cine: Cine, scanner: Scanner) -> None:
    """Sequence and grid of a balanced steady-state cine."""
    image.ScanningSequence, image.SequenceVariant, image.ScanOptions = "GR", "SS", "CG"
    image.MRAcquisitionType, image.SequenceName = "2D", "*tfi2d1_SYNTH"
    image.RepetitionTime, image.EchoTime, image.FlipAngle = "3.2", "1.5", "50"
    image.EchoTrainLength, image.ImagedNucleus = 1, "1H"
    image.Rows, image.Columns = cine.video.shape[-2:]
    image.PixelSpacing = decimals(scanner.spacing, scanner.spacing)
    (image.SliceThickness,) = decimals(min(8.0, scanner.gap))
    (image.SpacingBetweenSlices,) = decimals(scanner.gap)


def decimals(*values: float) -> list[str]:
    """DICOM decimal strings: at most 16 characters, exact to 1e-9 for positions in millimetres."""
    return [format_number_as_ds(float(np.round(value, 9)) + 0.0) for value in values]


def _order(scanner: Scanner) -> Iterator[tuple[int, int]]:
    """(phase, slice) in the order of the instance numbers."""
    if scanner.by_phase:
        return ((phase, level) for phase in range(scanner.phases) for level in range(scanner.slices))
    return ((phase, level) for level in range(scanner.slices) for phase in range(scanner.phases))


def _encoded(pixels: Pixels, scanner: Scanner) -> bytes:
    if scanner.syntax not in _ENCODER:
        return pixels.astype("<u2").tobytes()
    encoder, plugin = _ENCODER[scanner.syntax]
    frame = encoder.encode(
        pixels,
        encoding_plugin=plugin,
        rows=pixels.shape[0],
        columns=pixels.shape[1],
        samples_per_pixel=1,
        number_of_frames=1,
        pixel_representation=0,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=16,
        bits_stored=12,
    )
    return encapsulate([frame])
