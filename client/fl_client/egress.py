"""The egress gate: the only way out of a site. What does not fit the approved study exactly is refused.

Every release is a row of the hash-chained ``state/egress.jsonl`` (what, study, round, bytes, digest) that is on disk
before the bytes are handed over. When an answer leaves is not hidden: its time tells how long a site computed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from fl_client.privacy.small_cells import tells_small
from fl_client.withdrawn import is_withdrawn, releasing
from fl_shared.audit import AuditLog
from fl_shared.metrics.curves import curve_fits
from fl_shared.metrics.disclosure import MANY_LEFT_OUT, MIN_CELL, UNDEFINED
from fl_shared.metrics.noised import NOISED_NOTE, WITHHELD, is_noised
from fl_shared.metrics.table import METRICS, fits
from fl_shared.results import Curve, EvaluationRow, Findings
from fl_shared.site import Site
from fl_shared.study import Study, TaskPlan
from fl_shared.wire import Arrays, Code, digest, to_npy

Schema = Mapping[str, tuple[tuple[int, ...], str]]
"""Parameter name -> (shape, dtype), as in ``{"fusion.norm.weight": ((64,), "float32")}``."""

LOG = "egress.jsonl"
MASKED = "masked"  # in the log: an update under the masks of secure aggregation
NPY_HEADER = 256  # bytes allowed for the header of one array
METRICS_BYTES = 4 * 2**20  # most bytes of the rows and curves of one release
MODELS = frozenset({"federated", "personal", "recalibrated"})
_MEAN_NOTE = re.compile(r"mean of \d{1,3} of \d{1,3} labels, without (.+)")
_NOTES = tuple(
    re.compile(pattern)
    for pattern in (
        r"suppressed: fewer than \d{1,4} patients",
        r"not defined: scores are not finite",
        UNDEFINED,
        r"(not defined|events withheld): fewer than \d{1,2} patients with(, or without,)? the event",
        r"events withheld: they would tell a cell of fewer than \d{1,2} patients",
        rf"\d{{1,3}}% {MANY_LEFT_OUT}",
        NOISED_NOTE,
        WITHHELD,
    )
)


class EgressRefusedError(Exception):
    """Something must not leave; ``code`` is all that may be told outside, the text stays here."""

    def __init__(self, text: str, code: Code = Code.EGRESS) -> None:
        super().__init__(text)
        self.code = code


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

    def check_findings(self, found: Findings, *, study: Study, min_patients: int) -> int:
        """Whether results may leave: of this site, of the study's tasks, of no cohort below ``min_patients``, each
        number once and rounded.

        Returns:
            Their bytes.

        Raises:
            EgressRefusedError: they may not; `Code.TOO_FEW` for a small cohort.
        """
        rows, curves = found.evaluation, found.curves
        for row in rows:
            self._check_row(row, study, min_patients)
            if (
                METRICS[row.metric].tells_events
                and row.value is not None
                and row.events is None
                and row.label != "macro"
            ):
                raise EgressRefusedError("a value that tells a withheld number of events", Code.TOO_FEW)
        _check_between(rows, study)
        _check_once(rows, curves)
        if (epsilon := study.evaluation.epsilon) is not None and (curves or not is_noised(rows, epsilon=epsilon)):
            raise EgressRefusedError("a result without the noise that the study promises")
        told = {
            (row.task, row.label, row.modalities, row.model)
            for row in rows
            if row.value is not None and row.events is not None
        }
        for curve in curves:
            self._check_place(curve, study)
            if (curve.task, curve.label, curve.modalities, curve.model) not in told:
                raise EgressRefusedError("a curve without a released value and its number of events")
            if not curve_fits(curve, study.tasks[curve.task]):
                raise EgressRefusedError(f"no curve of such a task: {curve.kind}, {len(curve.x)} points")
            if any(point != round(point, 3) for point in (*curve.x, *curve.y)):
                raise EgressRefusedError("points of a curve that are not rounded")
        if (size := len(found.model_dump_json())) > METRICS_BYTES:
            raise EgressRefusedError(f"{size} bytes exceed the budget of {METRICS_BYTES}")
        return size

    def _record(self, kind: str, *, study: Study, round: int, size: int, sha256: str) -> None:
        with releasing(self._site):
            if is_withdrawn(self._site, study.identity):  # meanwhile, while this was computed
                raise EgressRefusedError("this site withdrew from the study", Code.WITHDRAWN)
            self.log.append("egress", f"release-{kind}", study=study.identity, round=round, bytes=size, sha256=sha256)

    def _check_place(self, part: EvaluationRow | Curve, study: Study) -> None:
        """Site, task, label and modalities are this site's and the study's."""
        task = study.tasks.get(part.task)
        if part.site != self._site.name:
            raise EgressRefusedError("results of another site")
        if task is None or part.label not in {*task.told, "macro"}:
            raise EgressRefusedError("a task or label outside the study")
        named = part.modalities.split("+")
        known = set(named) <= study.modalities.keys() and len(set(named)) == len(named)
        if part.modalities not in {"all", "headline"} and not known:
            raise EgressRefusedError("modalities outside the study")

    def _check_row(self, row: EvaluationRow, study: Study, min_patients: int) -> None:
        self._check_place(row, study)
        if row.role != study.sites[self._site.name].role or row.model not in MODELS:
            raise EgressRefusedError("a row with a wrong role or model name")
        numbers = [number for number in (row.value, row.ci_low, row.ci_high) if number is not None]
        if not fits(row.metric, study.tasks[row.task].type, numbers):
            raise EgressRefusedError("a metric of another type of task, or a value outside its range")
        if any(number != METRICS[row.metric].rounded(number) for number in numbers):
            raise EgressRefusedError("a value that is not rounded")
        if (row.n is None and (numbers or row.events is not None)) or (row.n is not None and row.n < min_patients):
            raise EgressRefusedError(f"a cohort below {min_patients} patients", Code.TOO_FEW)
        if row.events is not None and row.n is not None and not MIN_CELL <= row.events <= row.n - MIN_CELL:
            raise EgressRefusedError(f"a cell below {MIN_CELL} patients", Code.TOO_FEW)
        notes = row.note.split("; ") if row.note else []
        if len(set(notes)) != len(notes) or not all(_is_note(part, study, row.task) for part in notes):
            raise EgressRefusedError("a note that is not in the list")


def findings_digest(found: Findings) -> str:
    """SHA-256 of results as they are logged."""
    return hashlib.sha256(found.model_dump_json().encode()).hexdigest()


def _check_once(rows: Sequence[EvaluationRow], curves: Sequence[Curve]) -> None:
    """Two values of one thing would tell of the patients between them."""
    keys = [(r.task, r.label, frozenset(r.modalities.split("+")), r.model, r.metric) for r in rows]
    drawn = [(c.task, c.label, frozenset(c.modalities.split("+")), c.model, c.kind, c.day) for c in curves]
    if len(set(keys)) < len(keys) or len(set(drawn)) < len(drawn):
        raise EgressRefusedError("results of one thing twice")


def _check_between(rows: Sequence[EvaluationRow], study: Study) -> None:
    """Numbers of events tell by subtraction what lies between them: of no cell below `MIN_CELL` either."""
    told: dict[tuple[str, str, str], dict[str, EvaluationRow]] = {}
    for row in rows:
        if row.events is not None:
            labels = told.setdefault((row.task, row.modalities, row.model), {})
            if labels.setdefault(row.label, row).events != row.events:
                raise EgressRefusedError("two numbers of events of one label", Code.TOO_FEW)
    for (task, _, _), labels in told.items():
        counts = {label: row.events or 0 for label, row in labels.items()}
        if any(cell < MIN_CELL for cell in _between(study.tasks[task], counts, min(r.n or 0 for r in labels.values()))):
            raise EgressRefusedError(f"a cell below {MIN_CELL} patients by subtraction", Code.TOO_FEW)


def _between(plan: TaskPlan, events: Mapping[str, int], n: int) -> list[int]:
    """Cells that the numbers of events tell besides themselves."""
    if plan.type == "survival":  # by two days: those in between
        days = dict(zip(plan.told, (plan.horizon, *plan.told_at), strict=True))
        by_day = sorted({(days[label], count) for label, count in events.items()})
        return [later[1] - earlier[1] for earlier, later in pairwise(by_day)]
    if plan.type == "competing" or (plan.type == "multiclass" and events.keys() < set(plan.told)):
        return [n - sum(events.values())]  # they exclude one another: the others
    return []


def _is_note(text: str, study: Study, task: str) -> bool:
    """Whether a note is one of the known sentences; a mean may name labels of its task."""
    if mean := _MEAN_NOTE.fullmatch(text):
        return set(mean[1].split(", ")) <= set(study.tasks[task].told)
    return any(pattern.fullmatch(text) for pattern in _NOTES)
