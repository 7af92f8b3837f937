"""An evaluate-only run: sites that took no part judge a finished model, long after it was trained."""

from __future__ import annotations

from pathlib import Path

from fl_server.launch import FAILURE, INITIAL, REPORT, STUDY, load_prepared
from fl_server.promotion.source import Source
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.judged import refuse_others, travelling
from fl_shared.study import load_study


def prepare_judging(study_path: Path, model: Source, *, against: Source | None, runs: Path) -> Path:
    """Make ``runs/<study>/`` with the study and the arrays that are judged.

    Args:
        study_path: an evaluate-only study.
        model: what it judges.
        against: what it compares that with, if it does.
        runs: folder of all runs.

    Raises:
        ConsiliumError: the study judges no finished model, or others (exit code 10); the folder belongs to another
            study (19).
    """
    from safetensors.numpy import save

    study = load_study(study_path)
    arrays = travelling(model.finished.arrays, against.finished.arrays if against is not None else None)
    refuse_others(study, arrays, file=str(study_path))
    folder = runs / study.name
    if (folder / STUDY).exists() and load_prepared(folder).identity != study.identity:
        message = f"{folder} holds a run of another version of study '{study.name}'"
        raise ConsiliumError(f"{message}. Rename the study or use another --runs.", code=ExitCode.CHECKPOINT)
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (FAILURE, REPORT):  # of an attempt before: whoever waits looks for both
        (folder / stale).unlink(missing_ok=True)
    part = (folder / INITIAL).with_suffix(".tmp")
    part.write_bytes(save(dict(arrays)))
    part.replace(folder / INITIAL)
    (folder / STUDY).write_text(study.model_dump_json(by_alias=True, indent=2), encoding="utf-8")
    return folder
