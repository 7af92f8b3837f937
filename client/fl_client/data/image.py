"""A single image a sample as a file kind: late enhancement, perfusion, a radiograph; one of a folder of DICOM files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fl_client.data.cine.dicom import Frame
from fl_client.data.cine.files import sample_files
from fl_client.data.cine.grid import Grid
from fl_client.data.cine.groups import Group
from fl_client.data.cine.pixels import read_pixels
from fl_client.data.cine.sequence import SHORT_AXIS, SeriesKind, recognised
from fl_client.data.cine.series import read_series
from fl_client.data.findings import UnreadableError
from fl_client.data.kinds import FileKind, Layout, Sample
from fl_shared.site import ImageFiles
from fl_shared.study import ModalityPlan

FRONTAL = frozenset({"PA", "AP"})


class ImageKind:
    """pixels (1, size, size), z-scored; spacing (2,) mm: row, column, 0 where the file does not tell."""

    version = "1"

    def layout(self, plan: ModalityPlan) -> Layout:
        """As `FileKind.layout`."""
        return {"pixels": ((1, plan.size, plan.size), "float16"), "spacing": ((2,), "float32")}

    def files(self, root: Path, named: str, mapped: Any) -> Sequence[Path]:
        """As `FileKind.files`."""
        return sample_files(root, named)

    def read(self, root: Path, named: str, *, plan: ModalityPlan, mapped: Any) -> Sample:
        """As `FileKind.read`."""
        groups, repairs = read_series(root, named, pattern=mapped.series)
        group, several = _choose(recognised(groups), mapped, named)
        frame = _middle(group)
        spacing = frame.spacing
        if spacing is None or min(spacing) <= 0:
            if plan.field_of_view is not None:
                detail = f"{named}: no PixelSpacing, which the study's field_of_view needs"
                raise UnreadableError("geometry-missing", detail)
            spacing, repairs = (0.0, 0.0), (*repairs, "pixel spacing unknown")
        native = (spacing[0] or 1.0, spacing[1] or 1.0, 1.0)
        shape = (1, 1, frame.image.rows, frame.image.columns)  # an image is a cine of one phase and one slice
        grid = Grid.of(shape, native, frames=1, slices=1, size=plan.size, field_of_view=plan.field_of_view)
        pixels = grid.images(read_pixels([frame])[:, None], named)[0]
        scaled = grid.spacing(native)[:2] if spacing[0] else np.zeros(2, dtype=np.float32)
        return Sample(arrays={"pixels": pixels, "spacing": scaled}, repairs=(*repairs, *several))


def _choose(kinds: dict[SeriesKind, list[Group]], mapped: ImageFiles, named: str) -> tuple[Group, tuple[str, ...]]:
    """The group to take an image from: most slices, a short axis (or a frontal view) first, then the latest series.

    Raises:
        UnreadableError: nothing of the wanted sequence is there.
    """
    # a perfusion series without a telling description is told from a cine by its times only
    wanted: tuple[SeriesKind, ...] = {
        "any": tuple(kind for kind in kinds if kind != "scout"),
        "perfusion": ("perfusion", "dynamic"),
        "lge": ("lge",),
        "radiograph": ("radiograph",),
    }[mapped.sequence]
    candidates = [group for kind in wanted for group in kinds.get(kind, ())]
    if not candidates:
        detail = f"{named}: no image of the sequence '{mapped.sequence}'; series: {', '.join(sorted(kinds))}"
        raise UnreadableError("not-the-sequence", detail)
    ordered = sorted(candidates, key=lambda group: (_rank(group), group.number, group.orientation))
    alike = len(ordered) > 1 and _rank(ordered[-2]) == _rank(ordered[-1])
    return ordered[-1], ("several series alike: the latest is taken",) if alike else ()


def _rank(group: Group) -> tuple[int, bool, bool]:
    image = group.first.image
    preferred = SHORT_AXIS.search(image.words) is not None or image.view in FRONTAL
    return len(group.slices), preferred, not group.first.phase_image


def _middle(group: Group) -> Frame:
    """The middle one in place and time.

    Raises:
        UnreadableError: nothing tells the order of several images of the same place.
    """
    frames = group.slices[len(group.slices) // 2]
    for which in range(3):
        keys = [frame.orders[which] for frame in frames]
        if len(frames) == 1 or (None not in keys and len(set(keys)) == len(keys)):
            return sorted(frames, key=lambda frame: frame.orders[which] or 0.0)[len(frames) // 2]
    raise UnreadableError("phases-indistinct", "several images of one place, and nothing tells their order")


IMAGE: FileKind = ImageKind()
