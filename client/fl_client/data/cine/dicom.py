"""DICOM headers -> frames: what an image is, where it lies, when it was taken, how its values are scaled.

Every header is read once, up to the pixel data, and then dropped; only what is needed is kept. A frame of an Enhanced
multi-frame file has a slope, position and time of its own (`values`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from fl_client.data.cine.identity import check_identity
from fl_client.data.cine.values import Numbers, Values, texts
from fl_client.data.findings import UnreadableError

pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE  # its warnings would print patient values

MAX_FRAMES = 20_000  # a file
MAX_VOXELS = 2**28  # a file, a volume
PIXEL_DATA = 0x7FE00010
PHASE = frozenset({"P", "PHASE", "PHASE MAP", "VELOCITY", "VELOCITY MAP", "R", "REAL", "I", "IMAGINARY"})


@dataclass(frozen=True, kw_only=True, slots=True)
class DicomImage:
    """A file with pixels. ``offset``: of the value of Pixel Data; ``length``: its bytes, None when encapsulated."""

    path: Path
    syntax: str
    offset: int
    length: int | None
    frames: int
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    signed: bool
    photometric: str
    instance: str
    series: str
    series_number: int
    patient: str
    modality: str
    description: str
    words: str
    phases: int | None
    inversion_recovery: bool
    view: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """One picture of a file. Lengths in mm (patient coordinates, LPS), times in ms; None where the file is silent.

    orders: sort keys of the cardiac phase, the best first: trigger time, temporal position, number of the image.
    """

    image: DicomImage
    number: int
    instance_number: int | None
    position: Numbers | None
    orientation: Numbers | None
    spacing: Numbers | None
    slice_distance: float | None
    orders: tuple[float | None, float | None, float | None]
    phase_image: bool
    inversion: float | None
    echo: float | None
    slope: float
    intercept: float

    @property
    def trigger(self) -> float | None:
        """Time since the R wave, ms."""
        return self.orders[0]


def read_frames(path: Path) -> list[Frame]:
    """All frames of a DICOM file; none for a DICOM object that is no image (a report, a directory).

    Raises:
        UnreadableError: damaged, beyond a limit, or naming a patient (see `identity`).
    """
    try:
        return _read_frames(path)
    except UnreadableError:
        raise
    except Exception as error:
        # pydicom raises whatever a damaged header leads to, and converts values late
        raise UnreadableError("dicom-unreadable", f"{path.name}: {type(error).__name__}") from error


def _read_frames(path: Path) -> list[Frame]:
    meta = read_file_meta_info(path)
    if meta["TransferSyntaxUID"].value == DeflatedExplicitVRLittleEndian:  # pydicom would inflate without bound
        raise UnreadableError("dicom-syntax", f"{path.name}: deflated files are not read. Save it uncompressed.")
    with path.open("rb") as file:
        top = pydicom.dcmread(file, stop_before_pixels=True)
        start = file.tell()
        head = file.read(12)
    warnings = check_identity(top, path.name)
    sop_class = UID(str(top.get("SOPClassUID") or meta.get("MediaStorageSOPClassUID", "")))
    if sop_class.name != str(sop_class) and "Image Storage" not in sop_class.name:
        return []
    if not head:
        raise UnreadableError("dicom-truncated", f"{path.name}: no pixel data")
    image = _image(path, top, _pixel_element(head, start, meta["TransferSyntaxUID"].value, path.name), warnings)
    own = list(top.get("PerFrameFunctionalGroupsSequence") or [])
    if len(own) not in (0, image.frames):
        detail = f"{path.name}: {image.frames} frames, {len(own)} functional groups"
        raise UnreadableError("dicom-frames-disagree", detail)
    shared = list(top.get("SharedFunctionalGroupsSequence") or [])[:1]
    return [_frame(image, n, Values([*own[n : n + 1], *shared], top)) for n in range(image.frames)]


def _pixel_element(head: bytes, start: int, syntax: str, name: str) -> tuple[str, int, int | None]:
    """Syntax, offset and length of the value of the Pixel Data element whose first 12 bytes are given (PS3.5, 7.1)."""
    order = "big" if syntax == ExplicitVRBigEndian else "little"
    group, element = (int.from_bytes(head[i : i + 2], order) for i in (0, 2))  # type: ignore[arg-type]
    if len(head) < 12 or group << 16 | element != PIXEL_DATA:
        raise UnreadableError("dicom-unreadable", f"{name}: no integer Pixel Data")
    implicit = syntax == ImplicitVRLittleEndian
    length = int.from_bytes(head[4:8] if implicit else head[8:12], order)  # type: ignore[arg-type]
    return str(syntax), start + (8 if implicit else 12), None if length == 0xFFFFFFFF else length


def _image(path: Path, top: Dataset, element: tuple[str, int, int | None], warnings: tuple[str, ...]) -> DicomImage:
    syntax, offset, length = element
    frames = int(top.get("NumberOfFrames") or 1)
    rows, columns = int(top["Rows"].value), int(top["Columns"].value)
    if not 1 <= frames <= MAX_FRAMES or frames * rows * columns > MAX_VOXELS:
        raise UnreadableError("image-too-large", f"{path.name}: {frames} frames of {rows} x {columns} pixels")
    description = str(top.get("SeriesDescription") or "").strip()
    told = [top.get(k) for k in ("SequenceName", "PulseSequenceName", "AcquisitionContrast")]
    # ProtocolName only instead of a description: on some scanners it names the whole examination
    words = [description or str(top.get("ProtocolName") or ""), *(str(value) for value in told if value)]
    words += texts(top.get("ImageType"))
    count = top.get("CardiacNumberOfImages")
    return DicomImage(
        path=path,
        syntax=syntax,
        offset=offset,
        length=length,
        frames=frames,
        rows=rows,
        columns=columns,
        samples=int(top.get("SamplesPerPixel") or 1),
        allocated=int(top["BitsAllocated"].value),
        stored=int(top["BitsStored"].value),
        signed=int(top.get("PixelRepresentation") or 0) == 1,
        photometric=str(top.get("PhotometricInterpretation") or ""),
        instance=str(top.get("SOPInstanceUID") or ""),
        series=str(top.get("SeriesInstanceUID") or ""),
        series_number=int(top.get("SeriesNumber") or 0),
        patient=str(top.get("PatientID") or ""),
        modality=str(top.get("Modality") or "").strip().upper(),
        description=description,
        words=" | ".join(words).lower(),
        phases=None if count in (None, "") else int(count),
        inversion_recovery="IR" in texts(top.get("ScanningSequence")),
        view=str(top.get("ViewPosition") or "").strip().upper(),
        warnings=warnings,
    )


def _frame(image: DicomImage, number: int, values: Values) -> Frame:
    trigger = values.number("TriggerTime", "CardiacSynchronizationSequence")
    if trigger is None:
        trigger = values.number("NominalCardiacTriggerDelayTime", "CardiacSynchronizationSequence")
    temporal = values.number("TemporalPositionTimeOffset", "TemporalPositionSequence")
    for keyword in ("TemporalPositionIdentifier", "TemporalPositionIndex"):
        temporal = values.number(keyword, "FrameContentSequence") if temporal is None else temporal
    instance = values.number("InstanceNumber", "")
    spacing = values.numbers("PixelSpacing", "PixelMeasuresSequence", 2)
    distances = [values.number(k, "PixelMeasuresSequence") for k in ("SpacingBetweenSlices", "SliceThickness")]
    order = None if instance is None and image.frames == 1 else (instance or 0.0) * MAX_FRAMES + number
    slope = values.number("RescaleSlope", "PixelValueTransformationSequence")
    kinds = [*texts(values.get("FrameType", "MRImageFrameTypeSequence")), *texts(values.top.get("ImageType"))]
    component = str(values.get("ComplexImageComponent", "MRImageFrameTypeSequence") or "").upper()
    return Frame(
        image=image,
        number=number,
        instance_number=None if instance is None else int(instance),
        position=values.numbers("ImagePositionPatient", "PlanePositionSequence", 3),
        orientation=values.numbers("ImageOrientationPatient", "PlaneOrientationSequence", 6),
        spacing=spacing or values.numbers("ImagerPixelSpacing", "", 2),
        slice_distance=next((abs(d) for d in distances if d), None),
        orders=(trigger, temporal, order),
        phase_image=not PHASE.isdisjoint([component, *kinds]),
        inversion=values.number("InversionTime", "MRModifierSequence"),
        echo=values.number("EchoTime", "MREchoSequence") or values.number("EffectiveEchoTime", "MREchoSequence"),
        slope=1.0 if slope is None else slope,
        intercept=values.number("RescaleIntercept", "PixelValueTransformationSequence") or 0.0,
    )
