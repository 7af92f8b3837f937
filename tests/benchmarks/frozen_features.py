"""What a round costs where encoders are frozen: with their features kept, without, and with low-rank adapters.

    OMP_NUM_THREADS=1 python tests/benchmarks/frozen_features.py
    OMP_NUM_THREADS=1 python tests/benchmarks/frozen_features.py --preset paper
    python tests/benchmarks/frozen_features.py --preset paper --patients 64 --batch 32 --device cuda

A synthetic cohort lies in memory, so that no file is read. All ways start from the same weights and train fusion and
heads on the same patients: 'cached' keeps what a frozen encoder gives for all rows, 'uncached' runs the encoders in
every step. 'adapters' trains low-rank adapters inside the encoders as well, which then run, and are differentiated, in
every step; no encoder of an ECG can have them, so that this is measured on cine and text alone, read by dae_former and
text_bert. Printed are seconds of the first round (with the cache it runs every encoder once over all rows), seconds of
a later one (median), and its ratio to 'cached': CPU seconds of one thread, on a GPU those of the clock.

At the paper preset a cine of 16 frames of 224 x 224 pixels is read by the published DAE-Former, notes by a BERT-base
(its weights drawn at random), 5 s of ECG by MedM2T's encoder.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from published import INPUTS, bert_base, cohort_of, site_in, study_of, with_bert
from rich.console import Console
from rich.table import Table
from targets import Figure, keep

from fl_client.training import loop
from fl_client.training.features import FeatureCache
from fl_client.training.loop import Trainer
from fl_shared.models.build import select
from fl_shared.models.interface import Batch
from fl_shared.study import Study

TEXT = {"kind": "text", "max_tokens": 256}
CINE = {"kind": "cine", "frames": 8, "size": 48}
DAE, LONE = {"encoder": "dae_former"}, ("cached", "uncached")
BERT = Path(tempfile.gettempdir()) / "random_bert_base"
USUAL = {"small": {"patients": 200, "steps": 10, "batch": 32}, "paper": {"patients": 8, "steps": 3, "batch": 8}}
FASTER = 50.0  # target of the published sizes


def sets(preset: str) -> Mapping[str, tuple[str, dict[str, Any], tuple[str, ...]]]:
    """Title -> system, inputs, ways."""
    if preset == "small":
        mixed = {"cine": CINE, "text": TEXT, "ecg": INPUTS["ecg10"]}
        return {
            "cine + ecg + text": ("attention", mixed, LONE),
            "cine (dae_former) + text": ("attention", {"cine": CINE | DAE, "text": TEXT}, (*LONE, "adapters")),
        }
    text = with_bert(TEXT, bert_base(BERT))
    large = {"cine": {**INPUTS["cine"], **DAE}, "ecg": {**INPUTS["ecg"], "encoder": "medm2t_ecg"}, "text": text}
    return {
        "attention over all tokens": ("attention", large, LONE),
        "m_prtm's over one vector a modality": ("m_prtm", large, LONE),
    }


class Uncached(FeatureCache):
    """Runs the encoders in every step."""

    def fill(self, batch: Batch) -> Batch:
        """The batch as it is."""
        return batch


def seconds(options: argparse.Namespace, study: Study, way: str) -> tuple[float, float]:
    """Seconds of the first round, with what is made once, and of a later one."""
    weights = {"bert": BERT} if options.preset == "paper" else {}
    cache = FeatureCache if way == "cached" else Uncached
    with tempfile.TemporaryDirectory() as state, patch.object(loop, "FeatureCache", Uncached):
        cohort, site = cohort_of(study, options.patients), site_in(Path(state), weights=weights)
        trainer = Trainer(study=study, site=site, cohort=cohort, device=options.device)
        trainer._features = cache(trainer._model, trainer._batch)
        base, taken = select(trainer._model, study.is_shared), []
        for number in range(1, options.rounds + 1 if way == "cached" else 3):
            taken.append(_timed(lambda k=number: trainer.train(round=k, base=base, sigma=None), options.device))
    return taken[0], median(taken[1:])


def _timed(work: Callable[[], object], device: str) -> float:
    now = time.perf_counter if device == "cuda" else time.process_time
    start = now()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return now() - start


def main() -> None:
    """Measure every way on every set of inputs."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--preset", choices=("small", "paper"), default="small")
    parser.add_argument("--patients", type=int, help="small: 200, paper: 8")
    parser.add_argument("--steps", type=int, help="a round; small: 10, paper: 3")
    parser.add_argument("--batch", type=int, help="small: 32, paper: 8")
    parser.add_argument("--rounds", type=int, default=6, help="at least 2, with features kept: the first is told apart")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = parser.parse_args()
    for name, usual in USUAL[options.preset].items():
        setattr(options, name, getattr(options, name) or usual)
    torch.set_num_threads(1)
    sizes = f"{options.patients} patients, {options.steps} steps of {options.batch}, {options.preset}, {options.device}"
    table = Table("inputs", "way", "first round, s", "later round, s", "ratio", title=sizes)
    figures = []
    for title, (system, inputs, ways) in sets(options.preset).items():
        found = {}
        for way in ways:
            plan = {"patients": options.patients, "batch": options.batch, "steps": options.steps}
            encoders = "adapters" if way == "adapters" else "frozen"
            study = study_of(
                system, inputs, rounds=options.rounds, encoders=encoders, model={"preset": options.preset}, **plan
            )
            found[way] = seconds(options, study, way)
            first, later = found[way]
            ratio = later / found["cached"][1]
            table.add_row(title, way, f"{first:.2f}", f"{later:.3f}", f"{ratio:.1f}")
            if way == "uncached":
                once, kept = found["cached"]
                note = f"{sizes}: {later:.3g} s a round against {kept:.3g}, after a first one of {once:.3g}"
                target = FASTER if options.preset == "paper" else None
                figures.append(Figure(what=f"{title}, encoders in every step", value=ratio, target=target, note=note))
    Console().print(table)
    name = "frozen_features" if options.preset == "paper" else "frozen_features_small"
    title = f"A later round with frozen encoders, {options.preset} sizes: without kept features over with them (times)"
    keep(
        name,
        title=title,
        command=f"python tests/benchmarks/frozen_features.py --preset {options.preset}",
        figures=figures,
    )


if __name__ == "__main__":
    main()
