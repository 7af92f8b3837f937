"""Cardiac MR files written on the spot, in the real formats, with a distinct value in every pixel block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

from fl_client.data.cine import CINE, open_cine
from fl_shared.site import CineFiles
from fl_shared.study import ModalityPlan

ROW = np.array([0.693252, 0.673689, 0.256017])  # an oblique short axis; the normal below points to the apex
COLUMN = np.array([0.0220038, 0.335277, -0.941863])
ORIGIN = np.array([-85.7524, -200.829, 98.0818])
NORMAL = np.cross(ROW, COLUMN) * np.sign(np.cross(ROW, COLUMN) @ [1, -1, -1])
SPACING, DISTANCE = (1.5, 1.25), 8.0


def mapped(**keys: Any) -> CineFiles:
    return CineFiles(kind="cine", column="cine_path", **keys)


def plan(**keys: Any) -> ModalityPlan:
    return ModalityPlan(**{"kind": "cine", "frames": 8, "slices": 3, "size": 16, **keys})


def opened(root: Path, named: str = "p", **keys: Any):
    return open_cine(root, named, mapped(**keys))


def read(root: Path, named: str = "p", *, of: ModalityPlan | None = None, **keys: Any):
    return CINE.read(root, named, plan=of or plan(), mapped=mapped(**keys))


def volume(phases: int = 25, slices: int = 9, rows: int = 14, columns: int = 12, seed: int = 0) -> np.ndarray:
    """(phases, slices, rows, columns) uint16 < 4096, no two frames alike."""
    return np.random.default_rng(seed).integers(0, 4096, (phases, slices, rows, columns), dtype=np.uint16)


def uid(*parts: object) -> str:
    return generate_uid(entropy_srcs=["/".join(map(str, parts))])


def ds(*values: float) -> list[str]:
    return [format_number_as_ds(float(v)) for v in values]


def place(level: float) -> np.ndarray:
    """Corner of a slice; level 0 is the most basal."""
    return ORIGIN + level * DISTANCE * NORMAL


def header(**elements: Any) -> Dataset:
    """A de-identified MR image without pixels; ``elements`` set or (None) remove."""
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID, image.Modality = MRImageStorage, "MR"
    image.PatientName, image.PatientID, image.PatientBirthDate, image.PatientIdentityRemoved = "", "X1", "", "YES"
    image.StudyInstanceUID, image.SeriesInstanceUID = uid("study"), uid("series", 5)
    image.SeriesNumber, image.SeriesDescription = 5, "cine_sa"
    image.ImageType = ["ORIGINAL", "PRIMARY", "M", "RETRO"]
    image.ScanningSequence, image.SequenceVariant, image.SliceThickness = "GR", "SS", "6"
    image.ImageOrientationPatient = ds(*ROW, *COLUMN)
    image.PixelSpacing = ds(*SPACING)
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    return change(image, **elements)


def change(image: Dataset, **elements: Any) -> Dataset:
    for keyword, value in elements.items():
        if value is None:
            if keyword in image:
                delattr(image, keyword)
        else:
            setattr(image, keyword, value)
    return image


def save(image: Dataset, path: Path, pixels: np.ndarray | None = None) -> Path:
    if pixels is not None:
        image.Rows, image.Columns = pixels.shape[-2:]
        image.PixelData = pixels.astype(
            f"<{'i' if image.PixelRepresentation else 'u'}{image.BitsAllocated // 8}"
        ).tobytes()
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID
    image.SOPInstanceUID = image.get("SOPInstanceUID") or uid(path)
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


def write_cine(
    folder: Path,
    values: np.ndarray,
    *,
    seed: int = 1,
    times: str | None = "TriggerTime",
    series: int = 5,
    a_series_a_slice: bool = False,
    names: str = "IM{:05d}",
    levels: np.ndarray | None = None,
    subfolders: bool = False,
    skip: tuple[tuple[int, int], ...] = (),
    **elements: Any,
) -> list[Path]:
    """One classic file an image, numbered and named in a shuffled order; SliceLocation lies."""
    phases, slices = values.shape[:2]
    order = [(p, s) for p in range(phases) for s in range(slices) if (p, s) not in skip]
    shuffled = np.random.default_rng(seed).permutation(len(order))
    paths = []
    for number, which in enumerate(shuffled):
        phase, level = order[which]
        own = series + level if a_series_a_slice else series
        image = header(SeriesInstanceUID=uid("series", own), SeriesNumber=own)
        # numbered slice by slice and backwards, so that the number alone misleads unless it is all there is
        image.InstanceNumber = (slices - level) * 100 + phase
        image.SOPInstanceUID = uid(series, phase, level)
        image.ImagePositionPatient = ds(*place(level if levels is None else levels[level]))
        image.SliceLocation = str(int(which * 7 % 31))
        if times == "TriggerTime":
            image.TriggerTime = ds(12.5 + 36.1 * phase + level)[0]  # each slice has its own beat
        elif times is not None:
            setattr(image, times, phase + 1)
        sub = folder / f"d{number % 3}" if subfolders else folder
        paths.append(save(change(image, **elements), sub / names.format(number), values[phase, level]))
    return paths


def item(**elements: Any) -> Sequence:
    return Sequence([change(Dataset(), **elements)])


def write_enhanced(
    path: Path,
    values: np.ndarray,
    *,
    slopes: np.ndarray,
    intercepts: np.ndarray,
    seed: int = 3,
    trigger: bool = True,
    **elements: Any,
) -> Path:
    """One Enhanced MR file, its frames shuffled; every frame has a slope and an intercept of its own."""
    phases, slices = values.shape[:2]
    order = [(p, s) for p in range(phases) for s in range(slices)]
    order = [order[i] for i in np.random.default_rng(seed).permutation(len(order))]
    image = header(SOPClassUID=EnhancedMRImageStorage, InstanceNumber=1, NumberOfFrames=len(order))
    for keyword in ("ImageOrientationPatient", "PixelSpacing", "SliceThickness"):
        delattr(image, keyword)
    shared = Dataset()
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=ds(*ROW, *COLUMN))
    shared.PixelMeasuresSequence = item(PixelSpacing=ds(*SPACING), SliceThickness="6")
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    groups = []
    for phase, level in order:
        group = Dataset()
        group.PlanePositionSequence = item(ImagePositionPatient=ds(*place(level)))
        group.FrameContentSequence = item(TemporalPositionIndex=phase + 1)
        if trigger:
            group.CardiacSynchronizationSequence = item(NominalCardiacTriggerDelayTime=31.5 * phase)
        rescale = {"RescaleSlope": ds(slopes[phase, level])[0], "RescaleIntercept": ds(intercepts[phase, level])[0]}
        group.PixelValueTransformationSequence = item(**rescale, RescaleType="US")
        groups.append(group)
    image.PerFrameFunctionalGroupsSequence = Sequence(groups)
    return save(change(image, **elements), path, np.stack([values[p, s] for p, s in order]))


def write_still(path: Path, pixels: np.ndarray, **elements: Any) -> Path:
    """A single image."""
    base = {"SeriesInstanceUID": uid("series", path), "InstanceNumber": 1, "ImagePositionPatient": ds(*place(0))}
    return save(header(**{**base, **elements}), path, pixels)


def write_scouts(folder: Path, **elements: Any) -> list[Path]:
    """Three planes of a localizer."""
    views = [((1, 0, 0), (0, 1, 0)), ((1, 0, 0), (0, 0, -1)), ((0, 1, 0), (0, 0, -1))]
    about = {"SeriesInstanceUID": uid("series", 1), "SeriesNumber": 1, "SeriesDescription": "localizer", **elements}
    return [
        write_still(folder / f"scout{n}", volume(1, 1, seed=n)[0, 0], ImageOrientationPatient=ds(*r, *c), **about)
        for n, (r, c) in enumerate(views)
    ]
