"""The egress gate: the only way out of a site. What does not fit the approved study exactly is refused.

Every release is a row of the hash-chained ``state/egress.jsonl`` (what, study, round, bytes, digest) that is on disk
before the bytes are handed over. When an answer leaves is not hidden: its time tells how long a site computed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np

from fl_client.egress_findings import check_parts
from fl_client.egress_refused import EgressRefusedError
from fl_client.privacy.small_cells import tells_small
from fl_client.withdrawn import is_withdrawn, releasing
from fl_shared.audit import AuditLog
from fl_shared.learning import LEARNED, is_light
from fl_shared.metrics.disclosure import MIN_CELL
from fl_shared.results import Findings
from fl_shared.site import Site
from fl_shared.study import Study
from fl_shared.wire import Arrays, Code, digest, to_npy

__all__ = ["LOG", "MASKED", "Egress", "EgressRefusedError", "Schema", "check_arrays", "findings_digest", "schema_bytes"]

Schema = Mapping[str, tuple[tuple[int, ...], str]]
"""Parameter name -> (shape, dtype), as in ``{"fusion.norm.weight": ((64,), "float32")}``."""

LOG = "egress.jsonl"
MASKED = "masked"  # in the log: an update under the masks of secure aggregation
NPY_HEADER = 256  # bytes allowed for the header of one array
METRICS_BYTES = 4 * 2**20  # most bytes of the rows and curves of one release


def schema_bytes(schema: Schema) -> int:
    """Most bytes that arrays of this schema can take as ``.npy``: the byte budget of a release."""
    return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize + NPY_HEADER for shape, dtype in schema.values())


def check_arrays(arrays: Arrays, schema: Schema) -> None:
    """Names, shapes and dtypes must be exactly the schema's, and every value finite.

    Raises:
        EgressRefusedError: with `Code.NOT_FINITE` or `Code.EGRESS`.
    """
    if arrays.keys() != schema.keys():
        raise EgressRefusedError(f"names differ from the schema: {sorted(arrays.keys() ^ schema.keys())[:8]}")
    for name, (shape, dtype) in schema.items():
        array = arrays[name]
        if array.shape != tuple(shape) or str(array.dtype) != dtype:
            raise EgressRefusedError(f"{name} is {array.dtype}{array.shape}, the schema says {dtype}{shape}")
        if not np.isfinite(array).all():
            raise EgressRefusedError(f"{name} is not finite", Code.NOT_FINITE)


class Egress:
    """The gate of one site."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self.log = AuditLog(site.state_dir / LOG)

    def release_arrays(
        self,
        arrays: Arrays,
        *,
        kind: str,
        study: Study,
        round: int,
        schema: Schema,
        byte_budget: int,
        exact: bool = False,
    ) -> dict[str, bytes]:
        """Let arrays out.

        Args:
            arrays: what is to leave.
            kind: of the request, or `MASKED`: for the log.
            study: the approved study.
            round: its round.
            schema: exactly what may leave.
            byte_budget: most ``.npy`` bytes in all.
            exact: these are counts of patients without noise: none may be of 1 to 9.

        Returns:
            Name -> ``.npy`` bytes.

        Raises:
            EgressRefusedError: nothing left.
        """
        check_arrays(arrays, schema)
        if exact and any(tells_small(counts) for counts in arrays.values()):
            raise EgressRefusedError(f"a cell below {MIN_CELL} patients", Code.TOO_FEW)
        out = {name: to_npy(arrays[name]) for name in sorted(arrays)}
        size = sum(map(len, out.values()))
        if size > byte_budget:
            raise EgressRefusedError(f"{size} bytes exceed the budget of {byte_budget}")
        self._record(kind, study=study, round=round, size=size, sha256=digest(arrays))
        return out

    def release_findings(self, found: Findings, *, study: Study, round: int, min_patients: int) -> Findings:
        """Let aggregate results out, as `check_findings` allows.

        Raises:
            EgressRefusedError: nothing left; `Code.TOO_FEW` for a small cohort.
        """
        size = self.check_findings(found, study=study, min_patients=min_patients)
        self._record("evaluate", study=study, round=round, size=size, sha256=findings_digest(found))
        return found

    def release_learned(self, found: Findings, *, study: Study, round: int, min_patients: int) -> Findings:
        """Let a point of the learning curves out, as `check_learned` allows.

        Raises:
            EgressRefusedError: nothing left; `Code.TOO_FEW` for a small cohort.
        """
        size = self.check_learned(found, study=study, round=round, min_patients=min_patients)
        self._record(LEARNED, study=study, round=round, size=size, sha256=findings_digest(found))
        return found

    def check_learned(self, found: Findings, *, study: Study, round: int, min_patients: int) -> int:
        """As `check_findings`, and only the light form that a round of the study is judged in, at a training site.

        Raises:
            EgressRefusedError: they may not leave; `Code.TOO_FEW` for a small cohort.
        """
        if self._site.name not in study.train_sites or not is_light(found, study, round=round):
            raise EgressRefusedError(f"not what the learning curves of the study show after round {round}")
        return self.check_findings(found, study=study, min_patients=min_patients)

    def check_findings(self, found: Findings, *, study: Study, min_patients: int) -> int:
        """Whether results may leave: of this site, of the study's tasks, of no cohort below ``min_patients``, each
        number once and rounded.

        Returns:
            Their bytes.

        Raises:
            EgressRefusedError: they may not; `Code.TOO_FEW` for a small cohort.
        """
        check_parts(found, study=study, site=self._site, min_patients=min_patients)
        if (size := len(found.model_dump_json())) > METRICS_BYTES:
            raise EgressRefusedError(f"{size} bytes exceed the budget of {METRICS_BYTES}")
        return size

    def _record(self, kind: str, *, study: Study, round: int, size: int, sha256: str) -> None:
        with releasing(self._site):
            if is_withdrawn(self._site, study.identity):  # meanwhile, while this was computed
                raise EgressRefusedError("this site withdrew from the study", Code.WITHDRAWN)
            self.log.append("egress", f"release-{kind}", study=study.identity, round=round, bytes=size, sha256=sha256)


def findings_digest(found: Findings) -> str:
    """SHA-256 of results as they are logged."""
    return hashlib.sha256(found.model_dump_json().encode()).hexdigest()
