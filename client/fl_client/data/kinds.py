"""What a reader of sample files is: how its arrays look, which files make up a sample, how they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fl_shared.study import ModalityPlan

Layout = Mapping[str, tuple[tuple[int, ...], str]]
"""Array name -> (shape of one sample, dtype)."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample of one modality: arrays as `FileKind.layout` says, and what was repaired (for counting)."""

    arrays: Mapping[str, NDArray[np.generic]]
    repairs: tuple[str, ...] = ()


class FileKind(Protocol):
    """Reads samples that are files. Stateless and picklable: several processes read at a time.

    Attributes:
        version: of the preprocessing; part of the cache's key, so raise it whenever the arrays would change.
    """

    version: str

    def layout(self, plan: ModalityPlan) -> Layout:
        """How the arrays of a sample look. Rows without the modality are zeros."""

    def files(self, root: Path, named: str, mapped: Any) -> Sequence[Path]:
        """The files that make up a sample, in a fixed order: their contents are the cache's key.

        Args:
            root: `Site.data_dir`; nothing outside it is read.
            named: what the samples table names.
            mapped: the modality in site.toml.

        Raises:
            UnreadableError: they are missing, outside ``root``, no regular files, or too many.
        """

    def read(self, root: Path, named: str, *, plan: ModalityPlan, mapped: Any) -> Sample:
        """Decode and bring onto the study's grid.

        Raises:
            UnreadableError: the sample cannot be used: a code for counting, a detail that stays at the site.
        """
