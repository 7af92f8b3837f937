"""The series of a sample: a DICOM file, or all of a folder's."""

from __future__ import annotations

import re
from pathlib import Path

from fl_client.data.cine.dicom import Frame, read_frames
from fl_client.data.cine.files import dicom_files
from fl_client.data.cine.groups import Group, group_frames
from fl_client.data.findings import UnreadableError


def read_series(root: Path, named: str, *, pattern: str | None) -> tuple[list[Group], tuple[str, ...]]:
    """The series of a DICOM file or folder, headers only, and what is to be counted.

    Args:
        pattern: a regular expression that SeriesDescription must contain (any case).

    Raises:
        UnreadableError: a file is damaged, beyond a limit or names a patient; none holds an image of such a series.
    """
    paths, others = dicom_files(root, named)
    frames: list[Frame] = []
    without = 0
    for path in paths:
        found = read_frames(path)
        frames += found
        without += not found
    if not frames:
        raise UnreadableError("no-image", f"{named}: no image in {len(paths)} DICOM file(s)")
    repairs = {warning for frame in frames for warning in frame.image.warnings}
    repairs |= {"other files in the folder left out"} if others or without else set()
    if len({frame.image.patient for frame in frames}) > 1:
        raise UnreadableError("patients-mixed", f"{named}: several PatientIDs. Keep one patient in a folder.")
    return group_frames(_matching(frames, pattern)), tuple(sorted(repairs))


def _matching(frames: list[Frame], pattern: str | None) -> list[Frame]:
    if pattern is None:
        return frames
    try:
        wanted = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise UnreadableError("series-pattern", f"series = {pattern!r} is no regular expression: {error}") from error
    chosen = [frame for frame in frames if wanted.search(frame.image.description)]
    if not chosen:
        raise UnreadableError("series-not-found", f"no SeriesDescription contains {pattern!r}")
    return chosen
