from __future__ import annotations

import contextlib
import multiprocessing
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fl_client.data.arrays import IN_MEMORY, keep, zeros
from fl_client.data.cache import SampleCache
from fl_client.data.fill import Decoder, read_samples
from fl_client.data.findings import UnreadableError
from fl_client.data.kinds import Sample
from fl_shared.study import ModalityPlan

sys.path.insert(0, str(Path(__file__).parent))  # child processes import it too
from toy_kind import MAPPED, PLAN, ToyKind, hammer, toy_decoder

SAMPLE = Sample(
    arrays={"a": np.arange(12, dtype=np.float16).reshape(3, 4), "b": np.array([True, False]), "c": np.array(2.5)},
    repairs=("padded", "resampled"),
)


@pytest.fixture
def cache(tmp_path: Path) -> SampleCache:
    return SampleCache(tmp_path / "cache", max_bytes=10**9)


def same(one: Sample | None, other: Sample) -> bool:
    return (
        one is not None
        and one.repairs == other.repairs
        and one.arrays.keys() == other.arrays.keys()
        and all(
            a.dtype == other.arrays[k].dtype and a.shape == other.arrays[k].shape and (a == other.arrays[k]).all()
            for k, a in one.arrays.items()
        )
    )


def test_what_is_put_comes_back(cache: SampleCache) -> None:
    assert cache.get("ab" * 32) is None
    cache.put("ab" * 32, SAMPLE)
    assert same(cache.get("ab" * 32), SAMPLE)


def test_files_are_private(cache: SampleCache) -> None:
    cache.put("ab" * 32, SAMPLE)
    for path in cache.folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


@pytest.mark.parametrize("position", [0, 9, 100, -1])
def test_a_damaged_file_counts_as_absent(cache: SampleCache, position: int) -> None:
    cache.put("ab" * 32, SAMPLE)
    (path,) = cache.folder.rglob("*.safetensors")
    data = bytearray(path.read_bytes())
    data[position] ^= 0x41
    path.write_bytes(data)
    assert cache.get("ab" * 32) is None
    assert not path.exists()


def test_a_truncated_file_counts_as_absent(cache: SampleCache) -> None:
    cache.put("ab" * 32, SAMPLE)
    (path,) = cache.folder.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-3])
    assert cache.get("ab" * 32) is None


def test_the_key_is_the_content_and_the_preprocessing(cache: SampleCache, tmp_path: Path) -> None:
    one, other = tmp_path / "one.bin", tmp_path / "other.bin"
    one.write_text("1")
    other.write_text("1")

    def key(path: Path, kind: ToyKind = ToyKind(), plan: ModalityPlan = PLAN) -> str:
        return cache.key(kind, [path], plan=plan, mapped=MAPPED)

    first = key(one)
    assert key(one) == first == key(other)  # a copy of a file is the same sample
    assert key(one, ToyKind(version="2")) != first
    assert key(one, plan=PLAN.model_copy(update={"vectors": 2})) != first
    assert key(one, plan=PLAN.model_copy(update={"leaky": True})) == first  # changes no array
    kept = one.stat()
    one.write_text("2")
    os.utime(one, ns=(kept.st_atime_ns, kept.st_mtime_ns))  # same size, same modification time
    assert key(one) != first


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = SampleCache(tmp_path / "cache", max_bytes=0)
    sample = Sample(arrays={"x": np.zeros(1000, dtype=np.float32)})
    keys = [f"{n:02x}" * 32 for n in range(4)]
    for age, key in enumerate(keys):
        cache.put(key, sample)
        path = cache.folder / key[:2] / f"{key}.safetensors"
        os.utime(path, (1000 + age, 1000 + age))
    assert cache.get(keys[0]) is not None  # used now: the youngest
    size = path.stat().st_size
    SampleCache(tmp_path / "cache", max_bytes=2 * size).trim()
    assert [cache.get(key) is not None for key in keys] == [True, False, False, True]


def test_what_a_killed_writer_left_is_removed(cache: SampleCache) -> None:
    cache.put("ab" * 32, SAMPLE)
    old, new = cache.folder / "ab" / ".tmpold", cache.folder / "ab" / ".tmpnew"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (1, 1))
    cache.trim()
    assert (old.exists(), new.exists()) == (False, True)


def test_several_processes_at_a_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=hammer, args=(tmp_path / "cache", seed)) for seed in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]


def test_a_full_disk_costs_time_only(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", small], check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        cache = SampleCache(small / "cache", max_bytes=10**9)
        (tmp_path / "a").write_text("1")
        cache.put("ab" * 32, Sample(arrays={"x": np.zeros(12_000, dtype=np.float32)}))
        decoder = Decoder(kind=ToyKind(), plan=PLAN, mapped=MAPPED, root=tmp_path, cache=cache)
        for _ in range(2):
            with pytest.raises(OSError):
                cache.put("cd" * 32, Sample(arrays={"x": np.zeros(12_000, dtype=np.float32)}))
        ((_, sample),) = read_samples(decoder, ["a"], workers=1)
        assert isinstance(sample, Sample)
        with pytest.raises(OSError):
            zeros((IN_MEMORY,), "float32", folder=small)
    finally:
        subprocess.run(["umount", small], check=True)


def test_known_samples_are_not_decoded_again(tmp_path: Path) -> None:
    for n in range(5):
        (tmp_path / f"{n}").write_text(f"{n}")
    names = [*map(str, range(5)), "missing"]
    for _ in range(2):
        found = dict(read_samples(toy_decoder(tmp_path), names, workers=2))
        assert sorted(found) == list(range(6))
        assert all((found[n].arrays["x"] == n).all() for n in range(5))
        assert isinstance(found[5], UnreadableError)
    assert len((tmp_path / "log").read_text().splitlines()) == 5


def test_long_work_uses_processes_and_survives_the_death_of_one(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("fl_client.data.fill.WORTH_PROCESSES", 0.0)
    names = [f"{n}" for n in range(40)]
    for name in names:
        (tmp_path / name).write_text("crash" if name == "2" else "bad" if name == "3" else name)
    began = time.monotonic()
    found = dict(read_samples(toy_decoder(tmp_path, seconds=0.3), names, workers=2))
    assert time.monotonic() - began < 120
    assert found[3].check == "toy-bad"
    assert all((found[n].arrays["x"] == n).all() for n in range(40) if n != 3)
    assert len({line.split()[0] for line in (tmp_path / "log").read_text().splitlines()}) > 1


def test_large_arrays_live_in_a_file_that_nobody_sees(tmp_path: Path) -> None:
    array = zeros((IN_MEMORY // 400, 101), "float32", folder=tmp_path)
    assert isinstance(array, np.memmap)
    assert not list(tmp_path.iterdir())
    array[:] = np.arange(len(array), dtype=np.float32)[:, None]
    rows = np.arange(len(array)) % 3 == 1
    kept = keep(array, rows)
    assert isinstance(kept, np.memmap)
    np.testing.assert_array_equal(kept[:, 7], np.flatnonzero(rows).astype(np.float32))
    assert keep(array, np.ones(len(array), dtype=bool)) is array


def test_a_killed_reader_leaves_no_process(tmp_path: Path) -> None:
    """Killed while its helpers still start: they notice it themselves."""
    for n in range(40):
        (tmp_path / f"{n}").write_text(f"{n}")
    log, script = tmp_path / "log", tmp_path / "read.py"
    script.write_text(READ.format(here=str(Path(__file__).parent), root=str(tmp_path)))
    reader = subprocess.Popen([sys.executable, str(script)], env=os.environ | {"CONSILIUM_TEST": str(tmp_path)})
    end = time.monotonic() + 60
    while not log.exists() or len(log.read_text().splitlines()) < 2:
        assert time.monotonic() < end and reader.poll() is None
        time.sleep(0.05)
    assert len(marked(str(tmp_path))) > 1
    reader.kill()
    reader.wait()
    while left := marked(str(tmp_path)):
        assert time.monotonic() < end, left
        time.sleep(0.2)


def marked(value: str) -> list[str]:
    """Processes whose environment holds the value."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if f"CONSILIUM_TEST={value}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


READ = """
import sys
sys.path.insert(0, {here!r})
from pathlib import Path
from fl_client.data import fill
from toy_kind import toy_decoder

if __name__ == "__main__":
    fill.WORTH_PROCESSES = 0.0
    list(fill.read_samples(toy_decoder(Path({root!r}), seconds=0.3), [str(n) for n in range(40)], workers=3))
"""
