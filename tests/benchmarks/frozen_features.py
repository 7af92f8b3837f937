"""What a round costs where encoders are frozen: with their features kept, without, and with low-rank adapters.

    python tests/benchmarks/frozen_features.py
    python tests/benchmarks/frozen_features.py --preset paper --patients 64 --steps 5 --device cuda

A synthetic cohort lies in memory, so that no file is read. All ways start from the same weights and train fusion and
heads on the same patients: 'cached' keeps what a frozen encoder gives for all rows, 'uncached' runs the encoders in
every step. 'adapters' trains low-rank adapters inside the encoders as well, which then run, and are differentiated, in
every step; no encoder of an ECG can have them, so that this is measured on cine and text alone, read by dae_former and
text_bert. Printed are seconds of the first round (with the cache it runs every encoder once over all rows), seconds of
a later one (median), and its ratio to 'cached'.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from fl_client.data.cohort import Cohort
from fl_client.training.features import FeatureCache
from fl_client.training.loop import Trainer
from fl_shared.models.build import build_model, select
from fl_shared.models.interface import Batch
from fl_shared.site import Site
from fl_shared.study import Study
from fl_shared.text import byte_ids

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
RATE, SECONDS, TOKENS = 100, 10, 256
ECG = {"kind": "waveform", "leads": LEADS, "rate": float(RATE), "seconds": float(SECONDS)}
TEXT = {"kind": "text", "max_tokens": TOKENS}
SETS: Mapping[str, tuple[str, ...]] = {
    "cine + ecg + text": ("cached", "uncached"),
    "cine (dae_former) + text": ("cached", "uncached", "adapters"),
}


def study_of(options: argparse.Namespace, inputs: str, way: str) -> Study:
    """One site and one outcome."""
    cine: dict[str, Any] = {"kind": "cine", "frames": options.frames, "size": options.size}
    mixed = "ecg" in inputs
    return Study.model_validate(
        {
            "schema": 1,
            "name": "frozen",
            "seed": 1,
            "sites": {"a": {"role": "train", "patients": options.patients}},
            "tasks": {"death": {"type": "binary"}},
            "modalities": {"cine": cine if mixed else {**cine, "encoder": "dae_former"}, "text": TEXT}
            | ({"ecg": ECG} if mixed else {}),
            "model": {"preset": options.preset},
            "training": {
                "rounds": options.rounds,
                "steps": options.steps,
                "batch": options.batch,
                "encoders": "adapters" if way == "adapters" else "frozen",
            },
            "privacy": {"mode": "none"},
            "rounds": {"quorum": 1},
            "evaluation": {"salt": "saltsalt"},
        }
    )


def cohort_of(study: Study, patients: int) -> Cohort:
    """One sample a patient, all modalities present: noise, since only time is measured."""
    rng = np.random.default_rng(0)
    cine = study.modalities["cine"]
    notes = ["dyspnoea on exertion " * rng.integers(1, 20) for _ in range(patients)]
    ids, mask = zip(*(byte_ids(note, max_tokens=TOKENS) for note in notes), strict=True)
    video = rng.normal(size=(patients, cine.frames, cine.slices, cine.size, cine.size)).astype(np.float32)
    inputs: dict[str, dict[str, Any]] = {
        "cine": {
            "video": video,
            "frame_mask": np.ones((patients, cine.frames), bool),
            "slice_mask": np.ones((patients, cine.slices), bool),
            "spacing": np.ones((patients, 3), np.float32),
        },
        "text": {"ids": np.stack(ids), "mask": np.stack(mask)},
        "ecg": {
            "signal": rng.normal(size=(patients, len(LEADS), RATE * SECONDS)).astype(np.float32),
            "lead_mask": np.ones((patients, len(LEADS)), bool),
        },
    }
    return Cohort(
        site="a",
        sample_ids=tuple(f"s{k}" for k in range(patients)),
        patient_ids=tuple(f"p{k}" for k in range(patients)),
        patient=np.arange(patients),
        held_out=np.zeros(patients, bool),
        inputs={name: inputs[name] for name in study.modalities},
        present={name: np.ones(patients, bool) for name in study.modalities},
        targets={"death": (rng.random((patients, 1)) < 0.3).astype(np.float32)},
        target_mask={"death": np.ones((patients, 1), bool)},
    )


class Uncached(FeatureCache):
    """Runs the encoders in every step."""

    def fill(self, batch: Batch) -> Batch:
        """The batch as it is."""
        return batch


def seconds(options: argparse.Namespace, inputs: str, way: str) -> tuple[float, float]:
    """Seconds of the first round, with what is made once, and of a later one."""
    study = study_of(options, inputs, way)
    with tempfile.TemporaryDirectory() as state:
        site = Site.model_validate({"schema": 1, "name": "a", "state": state})
        site._folder = Path(state)
        base = select(build_model(study), study.is_shared)
        cohort = cohort_of(study, options.patients)
        trainer = Trainer(study=study, site=site, cohort=cohort, device=options.device)
        cache = FeatureCache if way == "cached" else Uncached
        trainer._features = cache(trainer._model, trainer._batch)  # empty, whatever was made on loading
        taken = []
        for number in range(1, options.rounds + 1):
            taken.append(_timed(lambda k=number: trainer.train(round=k, base=base, sigma=None), options.device))
    return taken[0], median(taken[1:])


def _timed(work: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure every way on every set of inputs."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--frames", type=int, default=8, help="of the cine")
    parser.add_argument("--size", type=int, default=48, help="pixels of the cine in height and width")
    parser.add_argument("--preset", choices=("small", "paper"), default="small")
    parser.add_argument("--steps", type=int, default=10, help="a round")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=4, help="at least 2: the first is told apart")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    title = f"{options.patients} patients, {options.steps} steps of {options.batch}, {options.preset}, {options.device}"
    table = Table("inputs", "way", "first round, s", "later round, s", "ratio", title=title)
    for inputs, ways in SETS.items():
        found = {way: seconds(options, inputs, way) for way in ways}
        for way, (first, later) in found.items():
            table.add_row(inputs, way, f"{first:.2f}", f"{later:.3f}", f"{later / found['cached'][1]:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
