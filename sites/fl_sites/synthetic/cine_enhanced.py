"""Writes a phantom as one Enhanced MR file: geometry, trigger delay and rescaling stand in the functional groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian

from fl_sites.synthetic.cine import Cine
from fl_sites.synthetic.cine_dicom import CINE, Exam, decimals, describe_cine, header
from fl_sites.synthetic.hospitals import Scanner

_TYPE = ["ORIGINAL", "PRIMARY", "CARDIAC", "NONE"]
_INTERCEPT = -4.0


def write_enhanced(folder: Path, cine: Cine, scanner: Scanner, exam: Exam) -> None:
    """Write ``folder/cine.dcm``: slice after slice, the phases within; a rescale slope for each slice."""
    image = header(exam, scanner, series=7, description=CINE, uid=EnhancedMRImageStorage)
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = exam.uid("cine")
    image.InstanceNumber, image.ImageType = 1, _TYPE
    image.AcquisitionContrast, image.ContentQualification = "UNKNOWN", "RESEARCH"
    image.CardiacSynchronizationTechnique, image.VolumetricProperties = "RETROSPECTIVE", "VOLUME"
    image.Rows, image.Columns = cine.video.shape[-2:]
    image.NumberOfFrames = scanner.slices * scanner.phases
    image.SharedFunctionalGroupsSequence = Sequence([_shared(cine, scanner)])
    _index(image, exam)
    frames, groups = [], []
    for level in range(scanner.slices):
        slope = 0.5 + 0.1 * level
        for phase in range(scanner.phases):
            frames.append(np.round((cine.video[phase, level] - _INTERCEPT) / slope).clip(0, 4095).astype("<u2"))
            groups.append(_frame(cine, phase=phase, level=level, slope=slope))
    image.PerFrameFunctionalGroupsSequence = Sequence(groups)
    image.PixelData = np.stack(frames).tobytes()
    image.save_as(folder / "cine.dcm", enforce_file_format=True)


def _item(**elements: object) -> Sequence:
    """A sequence of one item."""
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return Sequence([item])


def _shared(cine: Cine, scanner: Scanner) -> Dataset:
    """What all frames have in common."""
    grid: Any = Dataset()
    describe_cine(grid, cine, scanner)
    group = Dataset()
    group.PixelMeasuresSequence = _item(
        PixelSpacing=grid.PixelSpacing,
        SliceThickness=grid.SliceThickness,
        SpacingBetweenSlices=grid.SpacingBetweenSlices,
    )
    group.PlaneOrientationSequence = _item(ImageOrientationPatient=decimals(*cine.row, *cine.column))
    group.MRImageFrameTypeSequence = _item(FrameType=_TYPE, AcquisitionContrast="UNKNOWN")
    group.MRTimingAndRelatedParametersSequence = _item(
        RepetitionTime=grid.RepetitionTime, FlipAngle=grid.FlipAngle, EchoTrainLength=1
    )
    return group


def _frame(cine: Cine, *, phase: int, level: int, slope: float) -> Dataset:
    """What is this frame's own."""
    group = Dataset()
    group.FrameContentSequence = _item(
        StackID="1",
        InStackPositionNumber=level + 1,
        TemporalPositionIndex=phase + 1,
        DimensionIndexValues=[level + 1, phase + 1],
    )
    group.PlanePositionSequence = _item(ImagePositionPatient=decimals(*cine.positions[level]))
    group.CardiacSynchronizationSequence = _item(
        NominalCardiacTriggerDelayTime=float(cine.times[phase]), RRIntervalTimeNominal=cine.interval
    )
    group.PixelValueTransformationSequence = _item(
        RescaleIntercept=decimals(_INTERCEPT)[0], RescaleSlope=decimals(slope)[0], RescaleType="US"
    )
    return group


def _index(image: Any, exam: Exam) -> None:
    """Frames are indexed by the position in the stack, then by the phase."""
    organisation = exam.uid("dimensions")
    image.DimensionOrganizationSequence = _item(DimensionOrganizationUID=organisation)
    image.DimensionOrganizationType = "3D_TEMPORAL"
    pointers = [(0x00209057, 0x00209111), (0x00209128, 0x00209111)]  # InStackPositionNumber, TemporalPositionIndex
    image.DimensionIndexSequence = Sequence(
        [
            _item(DimensionOrganizationUID=organisation, DimensionIndexPointer=tag, FunctionalGroupPointer=group)[0]
            for tag, group in pointers
        ]
    )
