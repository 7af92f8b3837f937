"""Targets of segmentations: what was drawn on a cine, on the study's grid, in the numbers of the study's labels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_client.data import arrays as large
from fl_client.data.cache import SampleCache
from fl_client.data.cine.contours import MYOCARDIUM
from fl_client.data.cine.files import is_nifti, sample_files
from fl_client.data.cine.masks import read_masks
from fl_client.data.fill import Decoder, read_samples
from fl_client.data.findings import Findings, UnreadableError
from fl_client.data.kinds import Layout, Sample
from fl_client.data.table import HEADER_LINES
from fl_shared.site import CineFiles, Site, TaskMap
from fl_shared.study import ModalityPlan, TaskPlan

_PARTED = "\0"  # between the path of a cine and that of its masks: no path holds it
_NUMBERS = 256

Targets = tuple[NDArray[Any], NDArray[Any]]
"""Numbers of labels (N, frames, slices, size, size) uint8; where someone drew (N, frames, slices) bool."""


class DrawnKind:
    """labels (frames, slices, size, size), the numbers of the files; drawn and walls (frames, slices), as `Masks`.

    contours (1,): the masks are contours, which know the cavity (1) and the myocardium (2) only.
    """

    version = "1"

    def layout(self, plan: ModalityPlan) -> Layout:
        """As `FileKind.layout`."""
        grid = (plan.frames, plan.slices)
        labels = ((*grid, plan.size, plan.size), "uint8")
        return {"labels": labels, "drawn": (grid, "bool"), "walls": (grid, "bool"), "contours": ((1,), "bool")}

    def files(self, root: Path, named: str, mapped: Any) -> Sequence[Path]:
        """As `FileKind.files`: those of the cine, whose grid it is, and of the masks."""
        cine, masks = named.split(_PARTED, 1)
        return (*sample_files(root, cine), *sample_files(root, masks))

    def read(self, root: Path, named: str, *, plan: ModalityPlan, mapped: Any) -> Sample:
        """As `FileKind.read`."""
        cine, drawn = named.split(_PARTED, 1)
        masks = read_masks(root, cine, drawn, plan=plan, mapped=mapped)
        contours = not any(is_nifti(path.name) for path in sample_files(root, drawn))
        return Sample(
            arrays={
                "labels": masks.grid_labels,
                "drawn": masks.grid_annotated,
                "walls": masks.grid_walls,
                "contours": np.array([contours]),
            }
        )


@dataclass(frozen=True, kw_only=True)
class DrawnReader:
    """Reads the masks of one frame (rows in the cohort's order) for the segmentations of a study."""

    frame: pd.DataFrame
    site: Site
    tasks: Mapping[str, TaskPlan]
    findings: Findings
    workers: int

    def read_all(
        self,
        plans: Mapping[str, ModalityPlan],
        present: Mapping[str, NDArray[np.bool_]],
        *,
        cache: SampleCache,
        tick: Callable[[], None],
    ) -> dict[str, Targets]:
        """Segmentation -> its targets. Nowhere labelled: rows without cine or masks, and sites that map none.

        A mask that cannot be used is set aside, not its row. ``present``: modality -> (N,).
        """
        found = {task: self._nothing(plans[name], cache) for task, name in self._drawn_on().items()}
        for name in dict.fromkeys(self._drawn_on().values()):
            tasks = {task: self._mapped(task) for task, on in self._drawn_on().items() if on == name}
            for task in [task for task, mapped in tasks.items() if mapped is None]:
                self.findings.repairs[f"{task}: no masks are mapped at this site, nowhere labelled"] += len(self.frame)
            tables = {task: numbers(self.tasks[task], mapped) for task, mapped in tasks.items() if mapped is not None}
            if tables:
                for row, sample in self._samples(name, plans[name], present[name], cache, tick):
                    self._fill(row, sample, tables, found)
        return found

    def files(self) -> int:
        """How many masks there are to read."""
        wanted = {name for task, name in self._drawn_on().items() if self._mapped(task) is not None}
        return sum(len(self._named(name)[0]) for name in wanted)

    def _drawn_on(self) -> dict[str, str]:
        return {task: plan.modality for task, plan in self.tasks.items() if plan.modality is not None}

    def _mapped(self, task: str) -> TaskMap | None:
        mapped, cine = self.site.tasks.get(task), self.site.modalities.get(self.tasks[task].modality or "")
        masks = isinstance(cine, CineFiles) and cine.mask_column is not None
        return mapped if masks and mapped is not None and mapped.type == "segmentation" else None

    def _named(self, modality: str) -> tuple[NDArray[np.int64], list[str]]:
        """Rows whose cine and whose masks the table names, and both names."""
        cine = self.site.modalities[modality]
        columns = [cine.column, cine.mask_column] if isinstance(cine, CineFiles) and cine.mask_column else []
        if not columns or not {*columns} <= {*self.frame.columns}:  # a missing column is a reject
            return np.zeros(0, dtype=np.int64), []
        both = (self.frame[columns] != "").all(axis=1).to_numpy()
        return np.flatnonzero(both), [_PARTED.join(pair) for pair in self.frame.loc[both, columns].to_numpy()]

    def _nothing(self, plan: ModalityPlan, cache: SampleCache) -> Targets:
        shape = (len(self.frame), plan.frames, plan.slices)
        labels = large.zeros((*shape, plan.size, plan.size), "uint8", folder=cache.folder)
        return labels, np.zeros(shape, dtype=bool)

    def _samples(
        self,
        name: str,
        plan: ModalityPlan,
        present: NDArray[np.bool_],
        cache: SampleCache,
        tick: Callable[[], None],
    ) -> Iterator[tuple[int, Sample]]:
        """Row and masks, of the rows whose cine is present too (one that is set aside is told of once)."""
        mapped = self.site.modalities[name]
        assert isinstance(mapped, CineFiles)  # `_mapped`
        every, names = self._named(name)
        rows, names = every[present[every]], list(compress(names, present[every]))
        for _ in range(len(every) - len(rows)):
            tick()
        decoder = Decoder(kind=DrawnKind(), plan=plan, mapped=mapped, root=self.site.data_dir, cache=cache)
        for number, sample in read_samples(decoder, names, workers=self.workers):
            tick()
            if isinstance(sample, UnreadableError):
                line = int(self.frame.index[rows[number]]) + HEADER_LINES
                self.findings.set_aside(line, f"{name} masks", sample)
            else:
                yield int(rows[number]), sample

    def _fill(
        self, row: int, sample: Sample, tables: Mapping[str, NDArray[np.uint8]], found: Mapping[str, Targets]
    ) -> None:
        labels, drawn = np.asarray(sample.arrays["labels"]), np.asarray(sample.arrays["drawn"], dtype=bool)
        there = np.bincount(labels.reshape(-1), minlength=_NUMBERS) > 0
        for task, table in tables.items():
            if sample.arrays["contours"].any() and table[MYOCARDIUM + 1 :].any():
                self.findings.repairs[f"{task}: contours know cavity and myocardium only, not labelled"] += 1
                continue
            # where only the cavity was drawn, the myocardium is not known to be absent
            known = drawn & np.asarray(sample.arrays["walls"]) if table[MYOCARDIUM] else drawn
            found[task][0][row] = np.where(known[..., None, None], table[labels], 0)
            found[task][1][row] = known
            if there[1:][table[1:] == 0].any():
                self.findings.repairs[f"{task}: masks with numbers of no label, taken as background"] += 1


def numbers(plan: TaskPlan, mapped: TaskMap) -> NDArray[np.uint8]:
    """Number in the masks (256,) -> number of the study's label from 1; 0 (background) where no label is meant."""
    table = np.zeros(_NUMBERS, dtype=np.uint8)
    named = mapped.classes or {str(number): label for number, label in enumerate(plan.labels, start=1)}
    for code, label in named.items():
        if label in plan.labels:  # others are rejects
            table[int(code)] = plan.labels.index(label) + 1
    return table
