"""The error of a fusion whose part of the study cannot be followed."""

from __future__ import annotations

from fl_shared.errors import ConsiliumError, ExitCode, Fault


def refused(key: str, *, value: str, problem: str, mend: str) -> ConsiliumError:
    """For ``[model]`` of ``study.toml`` (exit code 10)."""
    fault = Fault(file="study.toml", key=f"model.{key}", value=value, problem=problem, mend=mend)
    return ConsiliumError("the model cannot be built", code=ExitCode.STUDY, faults=[fault])
