"""Every modality of a study, and what was drawn on it, for every row of the samples table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_client.data import arrays as large
from fl_client.data.cache import SampleCache
from fl_client.data.cine import CINE
from fl_client.data.drawn import DrawnReader, Targets
from fl_client.data.ecg import WAVEFORM
from fl_client.data.ehr import read_table
from fl_client.data.embedding import EMBEDDING
from fl_client.data.events import read_events
from fl_client.data.fill import Decoder, read_samples
from fl_client.data.findings import Findings, UnreadableError
from fl_client.data.image import IMAGE
from fl_client.data.kinds import FileKind
from fl_client.data.notes import read_notes
from fl_client.data.table import HEADER_LINES
from fl_client.data.text import tokenise
from fl_shared.errors import ConsiliumError
from fl_shared.site import EventTable, FileModality, Site, TableModality, TextFiles
from fl_shared.study import ModalityPlan, TaskPlan

Progress = Callable[[int, int], None]
"""Called with files done and files in all."""

Arrays = Mapping[str, NDArray[np.generic]]
FILE_KINDS: Mapping[str, FileKind] = {"waveform": WAVEFORM, "cine": CINE, "image": IMAGE, "embedding": EMBEDDING}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """arrays: modality -> named arrays (N, …); present: modality -> (N,); drawn: segmentation -> its targets."""

    arrays: dict[str, Arrays]
    present: dict[str, NDArray[np.bool_]]
    drawn: dict[str, Targets]


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads the modalities of one frame (rows in the cohort's order), several files at a time."""

    frame: pd.DataFrame
    site: Site
    findings: Findings
    workers: int
    progress: Progress | None = None

    def read_all(self, plans: Mapping[str, ModalityPlan], tasks: Mapping[str, TaskPlan]) -> Inputs:
        """Everything that lies in files. What the site does not map is nowhere present, and nowhere labelled."""
        masks = DrawnReader(frame=self.frame, site=self.site, tasks=tasks, findings=self.findings, workers=self.workers)
        steps, total = count(1), self._files(plans) + masks.files()

        def tick() -> None:
            if self.progress is not None:
                self.progress(next(steps), total)

        cache = SampleCache(self.site.cache_dir, max_bytes=round(self.site.cache.max_gib * 2**30))
        inputs: dict[str, Arrays] = {}
        present: dict[str, NDArray[np.bool_]] = {}
        for name, plan in plans.items():
            mapped = self.site.modalities.get(name)
            if mapped is None:
                self.findings.repairs[f"{name}: not mapped at this site, nowhere present"] += len(self.frame)
            if plan.kind in FILE_KINDS:
                files = mapped if isinstance(mapped, FileModality) else None
                inputs[name], present[name] = self._samples(name, plan, files, cache, tick)
            elif plan.kind == "table":
                inputs[name], present[name] = self._table(plan, mapped=isinstance(mapped, TableModality))
            elif plan.kind == "events":
                table = mapped if isinstance(mapped, EventTable) else None
                inputs[name], present[name] = self._events(name, plan, table)
            elif plan.kind == "text":
                notes = mapped if isinstance(mapped, TextFiles) else None
                inputs[name], present[name] = self._text(name, plan, notes, tick)
        drawn = masks.read_all(plans, present, cache=cache, tick=tick)
        cache.trim()
        return Inputs(arrays=inputs, present=present, drawn=drawn)

    def _files(self, plans: Mapping[str, ModalityPlan]) -> int:
        columns = [m.column for name in plans if isinstance(m := self.site.modalities.get(name), FileModality)]
        return sum(int((self.frame[column] != "").sum()) for column in columns if column in self.frame)

    def _samples(
        self, name: str, plan: ModalityPlan, mapped: FileModality | None, cache: SampleCache, tick: Callable[[], None]
    ) -> tuple[Arrays, NDArray[np.bool_]]:
        """A kind whose samples are files."""
        kind, n = FILE_KINDS[plan.kind], len(self.frame)
        found = {
            key: large.zeros((n, *shape), dtype, folder=cache.folder)
            for key, (shape, dtype) in kind.layout(plan).items()
        }
        present = np.zeros(n, dtype=bool)
        if mapped is not None and mapped.column in self.frame:
            rows = np.flatnonzero(self.frame[mapped.column] != "")
            paths = self.frame[mapped.column].iloc[rows].tolist()
            decoder = Decoder(kind=kind, plan=plan, mapped=mapped, root=self.site.data_dir, cache=cache)
            for number, sample in read_samples(decoder, paths, workers=self.workers):
                tick()
                row = int(rows[number])
                if isinstance(sample, UnreadableError):
                    self.findings.set_aside(int(self.frame.index[row]) + HEADER_LINES, name, sample)
                    continue
                present[row] = True
                for key, array in sample.arrays.items():
                    found[key][row] = array
                self.findings.repairs.update(f"{name}: {repair}" for repair in sample.repairs)
        return found, present

    def _table(self, plan: ModalityPlan, *, mapped: bool) -> tuple[Arrays, NDArray[np.bool_]]:
        shape = (len(self.frame), len(plan.fields))
        values, observed = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=bool)
        if mapped:
            file = self.site.samples_path.name
            table = read_table(self.frame, site=self.site, fields=plan.fields, file=file, findings=self.findings)
            values, observed = table.values, table.observed
        return {"values": values, "observed": observed}, _any(observed)

    def _events(self, name: str, plan: ModalityPlan, mapped: EventTable | None) -> tuple[Arrays, NDArray[np.bool_]]:
        shape = (len(self.frame), plan.bins, len(plan.fields))
        values, observed = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=bool)
        if mapped is not None:
            events = read_events(
                self.frame, site=self.site, plan=plan, mapped=mapped, name=name, findings=self.findings
            )
            values, observed = events.values, events.observed
        return {"values": values, "observed": observed}, _any(observed)

    def _text(
        self, name: str, plan: ModalityPlan, mapped: TextFiles | None, tick: Callable[[], None]
    ) -> tuple[Arrays, NDArray[np.bool_]]:
        shape = (len(self.frame), plan.max_tokens)
        ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        if mapped is not None:
            texts = read_notes(self.frame, site=self.site, mapped=mapped, name=name, findings=self.findings, tick=tick)
            try:
                tokens = tokenise(list(texts.values()), plan=plan, site=self.site, name=name)
                ids[list(texts)], mask[list(texts)] = tokens.ids, tokens.mask
                if tokens.cut:
                    self.findings.repairs[f"{name}: longer than max_tokens, cut at the end"] += tokens.cut
            except ConsiliumError as error:
                self.findings.rejects.extend(error.faults)
        return {"ids": ids, "mask": mask}, _any(mask)


def _any(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N, …) -> (N,)."""
    return np.asarray(mask.any(axis=tuple(range(1, mask.ndim))), dtype=bool)
