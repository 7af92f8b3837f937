"""Cardiac MR: files -> a 4-D volume (phases, slices, rows, columns) -> the study's grid.

`files` lists, `dicom` reads headers, `identity` refuses what names a patient, `groups` and `sequence` tell what a
series shows, `stack` orders a cine by geometry and time, `pixels` decodes, `nifti` reads the other format, `grid`
resamples, `contours` and `masks` read what was drawn, `volumes` measures it.
"""

from fl_client.data.cine.kind import CINE
from fl_client.data.cine.masks import Masks, read_masks
from fl_client.data.cine.source import Cine, open_cine
from fl_client.data.cine.volumes import Ventricle, ventricle

__all__ = ["CINE", "Cine", "Masks", "Ventricle", "open_cine", "read_masks", "ventricle"]
