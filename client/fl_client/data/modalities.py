"""Every modality of a study, for every row of the samples table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fl_client.data.cohort import Quarantined
from fl_client.data.ecg import read_ecg
from fl_client.data.ehr import read_table
from fl_client.data.findings import Findings, UnreadableError
from fl_client.data.table import HEADER_LINES
from fl_client.data.text import read_text, tokenise
from fl_shared.errors import ConsiliumError
from fl_shared.site import FileModality, Site
from fl_shared.study import ModalityPlan

Progress = Callable[[int, int], None]
"""Called with files done and files in all."""

Arrays = Mapping[str, NDArray[np.generic]]
KINDS = frozenset({"waveform", "table", "text"})
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Reader:
    """Reads the modalities of one frame (rows in the cohort's order), several files at a time."""

    frame: pd.DataFrame
    site: Site
    findings: Findings
    workers: int
    progress: Progress | None = None

    def read_all(self, plans: Mapping[str, ModalityPlan]) -> tuple[dict[str, Arrays], dict[str, NDArray[np.bool_]]]:
        """Modality -> named arrays (N, …), and presence (N,). What the site does not map is nowhere present."""
        steps, total = count(1), self._files(plans)

        def tick() -> None:
            if self.progress is not None:
                self.progress(next(steps), total)

        inputs: dict[str, Arrays] = {}
        present: dict[str, NDArray[np.bool_]] = {}
        for name, plan in plans.items():
            mapped = self.site.modalities.get(name)
            if mapped is None:
                self.findings.repairs[f"{name}: not mapped at this site, nowhere present"] += len(self.frame)
            if plan.kind == "table":
                inputs[name], present[name] = self._table(plan, mapped=mapped is not None and mapped.kind == "table")
            elif plan.kind == "waveform":
                inputs[name], present[name] = self._waveform(name, plan, _files_of(mapped, "waveform"), tick)
            elif plan.kind == "text":
                inputs[name], present[name] = self._text(name, plan, _files_of(mapped, "text"), tick)
        return inputs, present

    def _files(self, plans: Mapping[str, ModalityPlan]) -> int:
        columns = [m.column for name in plans if isinstance(m := self.site.modalities.get(name), FileModality)]
        return sum(int((self.frame[column] != "").sum()) for column in columns if column in self.frame)

    def _table(self, plan: ModalityPlan, *, mapped: bool) -> tuple[Arrays, NDArray[np.bool_]]:
        if not mapped:
            shape = (len(self.frame), len(plan.fields))
            values, observed = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=bool)
        else:
            file = self.site.samples_path.name
            table = read_table(self.frame, site=self.site, fields=plan.fields, file=file, findings=self.findings)
            values, observed = table.values, table.observed
        return {"values": values, "observed": observed}, _any(observed)

    def _waveform(
        self, name: str, plan: ModalityPlan, mapped: FileModality | None, tick: Callable[[], None]
    ) -> tuple[Arrays, NDArray[np.bool_]]:
        n, samples = len(self.frame), round((plan.rate or 0) * (plan.seconds or 0))
        signal = np.zeros((n, len(plan.leads), samples), dtype=np.float32)
        lead_mask = np.zeros((n, len(plan.leads)), dtype=bool)
        if mapped is not None:
            root = self.site.data_dir
            for i, ecg in self._each(name, mapped, lambda path: read_ecg(root, path, plan=plan, site=mapped), tick):
                signal[i], lead_mask[i] = ecg.signal, ecg.lead_mask
                self.findings.repairs.update(f"{name}: {repair}" for repair in ecg.repairs)
        return {"signal": signal, "lead_mask": lead_mask}, _any(lead_mask)

    def _text(
        self, name: str, plan: ModalityPlan, mapped: FileModality | None, tick: Callable[[], None]
    ) -> tuple[Arrays, NDArray[np.bool_]]:
        shape = (len(self.frame), plan.max_tokens)
        ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        if mapped is not None:
            root, encoding = self.site.data_dir, self.site.encoding
            texts = dict(self._each(name, mapped, lambda path: read_text(root, path, encoding=encoding), tick))
            try:
                tokens = tokenise(list(texts.values()), plan=plan, site=self.site, name=name)
                ids[list(texts)], mask[list(texts)] = tokens.ids, tokens.mask
            except ConsiliumError as error:
                self.findings.rejects.extend(error.faults)
        return {"ids": ids, "mask": mask}, _any(mask)

    def _each(
        self, name: str, mapped: FileModality, read: Callable[[str], T], tick: Callable[[], None]
    ) -> Iterator[tuple[int, T]]:
        """Row number and content of every readable file, in order; the others are quarantined."""
        if mapped.column not in self.frame:
            return
        paths = self.frame[mapped.column]
        named = [(i, path) for i, path in enumerate(paths) if path]

        def attempt(item: tuple[int, str]) -> T | UnreadableError:
            try:
                return read(item[1])
            except UnreadableError as error:
                return error

        with ThreadPoolExecutor(max_workers=self.workers) as pool:
            for (i, _), result in zip(named, pool.map(attempt, named), strict=True):
                tick()
                if isinstance(result, UnreadableError):
                    row = int(paths.index[i]) + HEADER_LINES
                    self.findings.quarantined.append(
                        Quarantined(row=row, modality=name, check=result.check, detail=result.detail)
                    )
                else:
                    yield i, result


def _files_of(mapped: object, kind: str) -> FileModality | None:
    return mapped if isinstance(mapped, FileModality) and mapped.kind == kind else None


def _any(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(N, …) -> (N,)."""
    return np.asarray(mask.any(axis=1), dtype=bool)
