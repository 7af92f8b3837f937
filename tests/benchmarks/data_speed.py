"""How fast samples are read: decoded, from the cache, by two processes; and whether memory stays flat.

    python tests/benchmarks/data_speed.py --cine SUNNYBROOK_DIR --ecg PTB_XL_DIR

Cine: the Sunnybrook patients, each read as several samples. ECG: the PTB-XL records at 100 Hz. Memory: a child process
loads a cohort of 100, then of 1,000 samples (the same studies again and again) onto a grid of 16 x 128 x 128; anonymous
memory is what the kernel cannot drop, unlike the pages of the cohort's file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fl_client.data.arrays import zeros
from fl_client.data.cache import SampleCache
from fl_client.data.fill import Decoder, read_samples
from fl_client.data.kinds import FileKind, Sample
from fl_client.data.modalities import FILE_KINDS
from fl_shared.site import CineFiles, FileModality, WaveformFiles
from fl_shared.study import ModalityPlan
from fl_sites.study_file import LEADS

CINE = CineFiles(kind="cine", column="cine_path"), ModalityPlan(kind="cine", frames=16, slices=1, size=128)
ECG = (
    WaveformFiles(kind="waveform", column="ecg_path"),
    ModalityPlan(kind="waveform", leads=LEADS, rate=100.0, seconds=10.0),
)


def decoder(kind: str, of: tuple[FileModality, ModalityPlan], root: Path, cache: Path) -> Decoder:
    mapped, plan = of
    reader: FileKind = FILE_KINDS[kind]
    return Decoder(kind=reader, plan=plan, mapped=mapped, root=root, cache=SampleCache(cache, max_bytes=100 * 2**30))


def seconds(reading: Decoder, names: Sequence[str], *, workers: int) -> float:
    """Wall time of reading all; every sample must be readable."""
    began = time.monotonic()
    bad = [sample for _, sample in read_samples(reading, names, workers=workers) if not isinstance(sample, Sample)]
    if bad:
        raise RuntimeError(f"unreadable: {bad[0]}")
    return time.monotonic() - began


def speed(kind: str, of: tuple[FileModality, ModalityPlan], root: Path, names: Sequence[str]) -> dict[str, float]:
    """Samples a second: decoded by one process, by two, and cached (the second reading)."""
    with tempfile.TemporaryDirectory() as folder:
        one = decoder(kind, of, root, Path(folder) / "one")
        cold = seconds(one, names, workers=1)
        cached = min(seconds(one, names, workers=1) for _ in range(3))
        two = seconds(decoder(kind, of, root, Path(folder) / "two"), names, workers=2)
    n = len(names)
    return {"decoded": n / cold, "two processes": n / two, "cached": n / cached,
            "cached, times": cold / cached, "two, times": cold / two}  # fmt: skip


def memory(root: Path, names: Sequence[str], cache: Path, count: int) -> dict[str, int]:
    """MB of a fresh process that has loaded ``count`` cine samples: anonymous, and of files."""
    inside = [sys.executable, __file__, "--inside", json.dumps([str(root), list(names), str(cache), count])]
    done = subprocess.run(inside, capture_output=True, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout)
    return found


def _inside(root: str, names: Sequence[str], cache: str, count: int) -> None:
    reading = decoder("cine", CINE, Path(root), Path(cache))
    chosen = [names[n % len(names)] for n in range(count)]
    layout = FILE_KINDS["cine"].layout(CINE[1])
    cohort = {k: zeros((count, *shape), dtype, folder=Path(cache)) for k, (shape, dtype) in layout.items()}
    for number, sample in read_samples(reading, chosen, workers=1):
        if not isinstance(sample, Sample):
            raise RuntimeError(str(sample))
        for key, array in sample.arrays.items():
            cohort[key][number] = array
    total = sum(float(np.asarray(cohort["video"][row], dtype=np.float32).sum()) for row in range(count))
    told = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if "Rss" in line)
    kept = {key: int(value.split()[0]) // 1024 for key, value in told.items()}
    print(json.dumps({"anonymous": kept["RssAnon"], "file": kept["RssFile"], "checksum": round(total)}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cine", type=Path, help="folder that holds dicoms.tar.xz")
    parser.add_argument("--ecg", type=Path, help="folder that holds records100")
    parser.add_argument("--studies", type=int, default=96, help="cine samples to read")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        _inside(*json.loads(args.inside))
        return
    torch.set_num_threads(1)  # of the one process, as of each of the two
    table = Table("a second", "decoded", "two processes", "cached", "cached, times", "two, times")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with tarfile.open(args.cine / "dicoms.tar.xz") as archive:
            archive.extractall(root, filter="data")
        patients = sorted(str(path.relative_to(root)) for path in (root / "dicoms").iterdir())
        names = [patients[n % len(patients)] for n in range(args.studies)]
        found = {"cine studies": speed("cine", CINE, root, names)}
        records = sorted(str(path.relative_to(args.ecg)) for path in args.ecg.rglob("*.hea") if "100" in str(path))
        found["ECG records"] = speed("waveform", ECG, args.ecg, records)
        for what, row in found.items():
            table.add_row(what, *(f"{value:.1f}" for value in row.values()))
        rss = {count: memory(root, patients, root / "cache", count) for count in (100, 1000)}
    Console().print(table)
    for count, mb in rss.items():
        print(f"{count} cine samples: {mb['anonymous']} MB anonymous, {mb['file']} MB of files")


if __name__ == "__main__":
    main()
