"""Cine CMR as a file kind: a folder or file of DICOM, or a NIfTI file, onto the study's grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fl_client.data.cine.files import sample_files
from fl_client.data.cine.grid import padded
from fl_client.data.cine.source import grid_of, open_cine
from fl_client.data.kinds import FileKind, Layout, Sample
from fl_shared.study import ModalityPlan


class CineKind:
    """video (frames, slices, size, size), z-scored; masks of frames and slices; spacing (3,) mm: row, column, slice.

    A beat is resampled to the study's frames as a circle. Slices run from base to apex, evenly spread; a stack of
    fewer slices leaves the last ones masked and 0.
    """

    version = "1"

    def layout(self, plan: ModalityPlan) -> Layout:
        """As `FileKind.layout`."""
        return {
            "video": ((plan.frames, plan.slices, plan.size, plan.size), "float16"),
            "frame_mask": ((plan.frames,), "bool"),
            "slice_mask": ((plan.slices,), "bool"),
            "spacing": ((3,), "float32"),
        }

    def files(self, root: Path, named: str, mapped: Any) -> Sequence[Path]:
        """As `FileKind.files`."""
        return sample_files(root, named)

    def read(self, root: Path, named: str, *, plan: ModalityPlan, mapped: Any) -> Sample:
        """As `FileKind.read`."""
        cine = open_cine(root, named, mapped)
        grid = grid_of(cine, plan)
        video = grid.images(cine.voxels(), named)
        fewer = ("fewer slices than the study's",) if len(grid.slices) < plan.slices else ()
        return Sample(
            arrays={
                "video": padded(video, plan.slices),
                "frame_mask": np.ones(plan.frames, dtype=bool),
                "slice_mask": np.arange(plan.slices) < len(grid.slices),
                "spacing": grid.spacing(cine.spacing),
            },
            repairs=(*cine.repairs, *fewer),
        )


CINE: FileKind = CineKind()
