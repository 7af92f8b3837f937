from __future__ import annotations

import errno
import json
import os
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest

from fl_server.checkpoint import RunDirectory
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import RoundResult, SiteRound

STUDY = "a" * 64


def model(number):
    return {"fusion.w": np.full(3, number, np.float32), "heads.scale": np.array(number, np.float32)}


def commit(run, previous, number):
    return run.commit(
        previous=previous,
        study=STUDY,
        model=model(number),
        state={"m/fusion.w": np.full(3, number / 3)},
        sites={"basel": SiteRound(status="accepted")},
        seconds=1.5,
        epsilon={"basel": number / 2},
    )


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "toy")
    with run.lock():
        last = None
        for number in range(4):
            last = commit(run, last, number)
        yield run


def test_committed_rounds_come_back_exactly(run):
    last = run.latest(study=STUDY)
    assert last.manifest.round == 3
    assert last.manifest.epsilon == {"basel": 1.5}
    assert last.model["heads.scale"].shape == ()
    np.testing.assert_array_equal(last.model["fusion.w"], model(3)["fusion.w"])
    assert last.state["m/fusion.w"].dtype == np.float64
    assert [r.round for r in run.history(last=last)] == [0, 1, 2, 3]
    assert sorted(p.name for p in run.rounds.iterdir()) == [f"round_{n:04d}" for n in range(4)]


def damage(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["model.safetensors", "strategy.safetensors", "manifest.json"])
@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
def test_a_damaged_round_falls_back_to_the_one_before(run, caplog, file, how):
    path = run.rounds / "round_0003" / file
    if how == "flipped":
        damage(path)
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:20])
    else:
        path.unlink()
    assert run.latest(study=STUDY).manifest.round == 2
    assert "round_0003 does not verify" in caplog.text


def test_a_damaged_chain_is_not_continued_past_the_break(run, caplog):
    manifest = run.rounds / "round_0002" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seconds": 1.5', '"seconds": 9.5'))
    assert run.latest(study=STUDY).manifest.round == 2  # changed but self-consistent; 3 names the old one as parent
    assert "round_0003 does not verify" in caplog.text


def test_committing_over_unverified_rounds_sets_them_aside(run):
    damage(run.rounds / "round_0002" / "model.safetensors")
    damage(run.rounds / "round_0003" / "model.safetensors")
    last = run.latest(study=STUDY)
    assert last.manifest.round == 1
    commit(run, last, 2)
    assert run.latest(study=STUDY).manifest.round == 2
    kept = sorted(p.name.split(".")[0] for p in (run.path / "set_aside").iterdir())
    assert kept == ["round_0002", "round_0003"]


def test_nothing_verifies_is_an_error_not_a_fresh_start(run):
    (run.rounds / "round_0000" / "manifest.json").unlink()
    with pytest.raises(ConsiliumError, match="no committed round verifies") as error:
        run.latest(study=STUDY)
    assert error.value.code == ExitCode.CHECKPOINT


def test_rounds_of_another_study_are_refused(run):
    with pytest.raises(ConsiliumError, match="another study"):
        run.latest(study="b" * 64)


def test_a_second_coordinator_is_refused_with_the_holder_named(run):
    with pytest.raises(ConsiliumError, match=f"already running .process {os.getpid()}") as error, run.lock():
        pass
    assert error.value.code == ExitCode.ALREADY_RUNNING


def test_lock_is_free_after_its_holder_and_half_written_folders_are_swept(tmp_path):
    run = RunDirectory(tmp_path / "toy")
    with run.lock():
        (run.rounds / ".tmp-abc").mkdir()
        (run.rounds / ".tmp-abc" / "model.safetensors").write_bytes(b"half")
        (run.path / ".tmp-results.json").write_bytes(b"half")
    with run.lock():
        run.sweep()
    assert not list(run.path.rglob(".tmp-*"))


def refuse_writes(monkeypatch, number):
    def fsync(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EIO, "cannot be written")])
def test_a_refusing_disk_leaves_the_rounds_before_and_nothing_else(run, monkeypatch, number, words):
    last = run.latest(study=STUDY)
    with monkeypatch.context() as patch, pytest.raises(ConsiliumError, match=words) as error:
        refuse_writes(patch, number)
        commit(run, last, 4)
    assert error.value.code == ExitCode.CHECKPOINT
    assert run.latest(study=STUDY).digest == last.digest
    assert not list(run.path.rglob(".tmp-*"))
    commit(run, last, 4)


@contextmanager
def small_disk(folder, size):
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_really_full_disk(tmp_path):
    with small_disk(tmp_path / "disk", "256k") as disk:
        run = RunDirectory(disk / "toy")
        with run.lock():
            last = commit(run, None, 0)
            (disk / "filler").write_bytes(b"x" * 150_000)
            with pytest.raises(ConsiliumError, match="disk is full"):
                run.commit(
                    previous=last, study=STUDY, model={"fusion.w": np.zeros(60_000, np.float32)}, state={}, sites={},
                    seconds=0, epsilon={},
                )  # fmt: skip
            assert run.latest(study=STUDY).digest == last.digest
            assert not list(run.path.rglob(".tmp-*"))


def test_failures_are_kept_and_a_torn_line_is_skipped(run, caplog):
    failed = RoundResult(round=4, outcome="failed", seconds=2, sites={"basel": SiteRound(status="absent")})
    run.record_failure(failed)
    with (run.path / "failures.jsonl").open("ab") as file:
        file.write(b'{"round": 4, "outc')
    run.record_failure(failed)
    assert run.failures() == (failed, failed)
    assert "torn line" in caplog.text
    last = run.latest(study=STUDY)
    assert [(r.round, r.outcome) for r in run.history(last=last)][-2:] == [(4, "failed")] * 2
    last = commit(run, last, 4)
    assert [(r.round, r.outcome) for r in run.history(last=last)][-2:] == [(4, "failed"), (4, "committed")]


def test_final_model_belongs_to_its_last_round(run, caplog):
    last = run.latest(study=STUDY)
    assert run.load_final(last=last) is None
    run.commit_final(last=last, model=model(9), sites={}, epsilon={})
    assert run.load_final(last=last).model["fusion.w"][0] == 9
    assert run.load_final(last=commit(run, last, 4)) is None
    assert "another model" in caplog.text
    damage(run.final / "model.safetensors")
    assert run.load_final(last=last) is None
    run.commit_final(last=last, model=model(8), sites={}, epsilon={})
    assert run.load_final(last=last).model["fusion.w"][0] == 8


def test_manifest_is_plain_json_with_checksums(run):
    manifest = json.loads((run.rounds / "round_0001" / "manifest.json").read_text())
    assert set(manifest["files"]) == {"model.safetensors", "strategy.safetensors"}
    assert manifest["sites"] == {"basel": {"status": "accepted", "reason": ""}}
    assert manifest["schema"] == 1
