"""The outbox: every update of this site as it left, so that the same request gets the same bytes again.

Fresh noise for a repeated request would spend privacy twice; a file here is fsynced before the ledger commits.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import safetensors.numpy

from fl_client.files import private_dir, write_private
from fl_shared.results import Findings
from fl_shared.study import Study
from fl_shared.toml import Section
from fl_shared.wire import Arrays


class Opened(Section):
    """Over which sites the masked sum of a round was opened, and from which start it came."""

    base: str
    sites: tuple[str, ...]


class Outbox:
    """Files of one site's releases, ``state/outbox/<study>/``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def update(self, study: Study, round: int, base: str) -> Arrays | None:
        """The update of a round that started from ``base`` (a digest), if it was computed."""
        return _load(self._path(study, f"round_{round}-{base[:16]}.safetensors"))

    def put_update(self, study: Study, round: int, base: str, arrays: Arrays) -> None:
        """Keep an update durably."""
        self._save(study, f"round_{round}-{base[:16]}.safetensors", arrays)

    def has_round(self, study: Study, round: int) -> bool:
        """Whether any update of this round was computed."""
        return any(self._path(study, "").glob(f"round_{round}-*.safetensors"))

    def opened(self, study: Study, round: int) -> Opened | None:
        """Over which sites the round's masked sum was opened, if it was."""
        path = self._path(study, f"opened_{round}.json")
        return Opened.model_validate_json(path.read_bytes()) if path.exists() else None

    def put_opened(self, study: Study, round: int, opened: Opened) -> None:
        """Keep that durably."""
        private_dir(self._path(study, ""))
        write_private(self._path(study, f"opened_{round}.json"), opened.model_dump_json().encode())

    def encoders(self, study: Study) -> Arrays | None:
        """The local encoders, if they were released."""
        return _load(self._path(study, "encoders.safetensors"))

    def put_encoders(self, study: Study, arrays: Arrays) -> None:
        """Keep the local encoders durably."""
        self._save(study, "encoders.safetensors", arrays)

    def counts(self, study: Study, kind: str, base: str) -> Arrays | None:
        """The counts that a kind of request (statistics, recalibrate) got under the arrays with this digest."""
        return _load(self._path(study, f"{kind}-{base[:16]}.safetensors"))

    def put_counts(self, study: Study, kind: str, base: str, arrays: Arrays) -> None:
        """Keep counts durably."""
        self._save(study, f"{kind}-{base[:16]}.safetensors", arrays)

    def counted(self, study: Study, kind: str) -> int:
        """For how many models a kind of request was answered."""
        return len(list(self._path(study, "").glob(f"{kind}-*.safetensors")))

    def evaluation(self, study: Study, model: str) -> Findings | None:
        """Results of the model with this digest, if it was judged."""
        path = self._path(study, f"evaluation-{model[:16]}.json")
        return Findings.model_validate_json(path.read_bytes()) if path.exists() else None

    def put_evaluation(self, study: Study, model: str, evaluation: Findings) -> None:
        """Keep results durably."""
        private_dir(self._path(study, ""))
        write_private(self._path(study, f"evaluation-{model[:16]}.json"), evaluation.model_dump_json().encode())

    def evaluations(self, study: Study) -> int:
        """How many models were judged for this study."""
        return len(list(self._path(study, "").glob("evaluation-*.json")))

    def learned(self, study: Study, round: int, model: str) -> Findings | None:
        """What was told of the model with this digest after a round, if it was judged then."""
        path = self._path(study, _learned(round, model))
        return Findings.model_validate_json(path.read_bytes()) if path.exists() else None

    def put_learned(self, study: Study, round: int, model: str, found: Findings) -> None:
        """Keep that durably."""
        private_dir(self._path(study, ""))
        write_private(self._path(study, _learned(round, model)), found.model_dump_json().encode())

    def has_learned(self, study: Study, round: int) -> bool:
        """Whether a model of this round was judged."""
        return any(self._path(study, "").glob(_learned(round, "*")))

    def _path(self, study: Study, name: str) -> Path:
        return self._folder / study.identity / name

    def _save(self, study: Study, name: str, arrays: Arrays) -> None:
        private_dir(self._path(study, ""))
        whole = {key: np.ascontiguousarray(value) for key, value in arrays.items()}
        write_private(self._path(study, name), safetensors.numpy.save(whole))


def _learned(round: int, model: str) -> str:
    return f"learning_{round}-{model[:16]}.json"


def _load(path: Path) -> Arrays | None:
    return safetensors.numpy.load(path.read_bytes()) if path.exists() else None
