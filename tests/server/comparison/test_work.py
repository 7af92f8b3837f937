"""Why a cell has no numbers, in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fl_server.comparison.work import reason, refused_by_privacy, tried
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.wire import Code

RAISED = """Traceback (most recent call last):
  File "loop.py", line 5, in load
    raise refusal(problem)
fl_shared.errors.ConsiliumError: the per-patient gradient check fails
  - study.toml: model: a patient's loss depends on other patients. Choose another system.
"""


def missed(*codes: str) -> ConsiliumError:
    faults = [
        Fault(file="joint_s1", key=f"sites.{site}", problem=code, mend="Resume.")
        for site, code in zip("ab", codes, strict=False)
    ]
    return ConsiliumError("Round 1 failed", code=ExitCode.ROUND_FAILED, faults=faults)


def log(runs: Path, site: str, *tracebacks: str) -> None:
    path = runs / "joint_s1" / "simulation" / site / "log.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps({"event": "x", "traceback": each}) + "\n" for each in tracebacks))


def test_the_sites_logs_say_what_their_codes_do_not(tmp_path: Path) -> None:
    log(tmp_path, "a", "Traceback\nZeroDivisionError: old\n", RAISED)
    told = reason(missed(Code.LEDGER, Code.LEDGER), tmp_path)
    words = "the per-patient gradient check fails study.toml: model: a patient's loss depends on other patients."
    assert told == f"a: {words} Choose another system.; sites.b: {Code.LEDGER.value}"
    log(tmp_path, "b", RAISED)
    assert reason(missed(Code.LEDGER, Code.LEDGER), tmp_path) == f"{words} Choose another system."  # once
    assert reason(ConsiliumError("the disk is full", code=ExitCode.CHECKPOINT), tmp_path) == "the disk is full"


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (missed(Code.LEDGER, Code.BUDGET), True),
        (missed(Code.LEDGER, Code.TRAINER), False),
        (missed(Code.DEADLINE), False),
        (ConsiliumError("no sigma", code=ExitCode.PRIVACY), True),
        (ConsiliumError("no folder", code=ExitCode.CHECKPOINT), False),
        (
            ConsiliumError(
                "cannot be approved",
                code=ExitCode.NOT_APPROVED,
                faults=[Fault(file="f", key="privacy.mode", problem="this site requires privacy", mend="m")],
            ),
            True,
        ),
    ],
)
def test_refused_is_only_what_privacy_forbids(error: ConsiliumError, refused: bool, tmp_path: Path) -> None:
    def run() -> bool:
        raise error

    assert refused_by_privacy(error) is refused
    assert tried(run, where=tmp_path).state == ("refused" if refused else "failed")
