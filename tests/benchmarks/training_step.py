"""What a training step of each system costs at its published sizes, against a plain loop of the same model.

    OMP_NUM_THREADS=1 python tests/benchmarks/training_step.py
    OMP_NUM_THREADS=1 python tests/benchmarks/training_step.py --only medfuse --pairs 20

The product's step is that of `Trainer`. The plain one is what anybody writes: the step's rows of tensors that lie in
memory, ``loss.backward()``, ``torch.optim.AdamW``. Both start from the same weights, on the same rows with the same
draws, and must end with the same weights. Where encoders are frozen, both read the features that are kept. Memory: all
that the process holds while it trains, but for the libraries.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from paired import Child, in_turn, ratio, resident, shown, steps_wanted
from published import DEATH, FIBROSIS, INPUTS, SURVIVAL, bert_base, cohort_of, site_in, study_of, with_bert
from safetensors.torch import load_file, save_file
from targets import HERE, Figure, keep
from torch import Tensor

from fl_client.privacy.sampler import PatientRecords, shuffled_batches
from fl_client.training.loop import Trainer
from fl_shared.models.interface import Batch, take
from fl_shared.models.model import MultimodalModel
from fl_shared.study import Study

RATE = 1e-4
SEED = 7
WAYS = ("product", "plain")
WARM = 1  # pairs that do not count
MOST = 1.05  # times as slow
SAME = 0.02  # of the way that the weights went: Adam magnifies rounding
TITLE = "A training step at published sizes, product against a plain loop (CPU seconds of one thread, ratio)"
BERT = Path(tempfile.gettempdir()) / "random_bert_base"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One phase of one system.

    batch, rows: of a step and in the cohort; pairs: of steps that are timed, each time of ``starts`` that both
    processes are begun anew (where a heap comes to lie moves a short step by some percent); frames: of a cine.
    """

    system: str
    phase: str
    inputs: Sequence[str]
    batch: int
    rows: int
    pairs: int
    starts: int = 1
    frames: int = 16
    tasks: Mapping[str, Any] = field(default_factory=lambda: DEATH)
    model: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """In the table."""
        return f"{self.system}, {self.phase}"

    def study(self, steps: int) -> Study:
        """The study; m_prtm reads its notes by a pretrained BERT, which is frozen then."""
        inputs = {name.removesuffix("10"): INPUTS[name] for name in self.inputs}
        if "cine" in inputs:
            inputs["cine"] = {**inputs["cine"], "frames": self.frames}
        if self.system == "m_prtm":
            inputs["text"] = with_bert(inputs["text"], BERT)
        sizes = {"batch": self.batch, "steps": steps, "tasks": self.tasks, "model": self.model}
        return study_of(self.system, inputs, patients=self.rows, learning_rate=RATE, **sizes)


M_PRTM = {"inputs": ("cine", "ehr", "text"), "tasks": {**DEATH, **FIBROSIS}}
FRAMES = 2  # of 16: with all, a step of one segmented row takes 14 GB, and two processes are compared
MEDM2T = {"inputs": ("ecg", "series", "ehr"), "batch": 32, "rows": 96, "pairs": 5, "starts": 3}
MEDFUSE = {"inputs": ("series", "xray"), "batch": 16, "rows": 32, "pairs": 7}
TTE = {"inputs": ("slices", "ehr"), "tasks": SURVIVAL, "batch": 128, "rows": 384, "pairs": 11, "starts": 3}
LEMOF = {"inputs": ("ecg10", "ehr"), "batch": 32, "rows": 128, "pairs": 21, "starts": 3}
CASES = (
    Case(system="tte_alignment", phase="survival", **TTE),
    Case(system="tte_alignment", phase="alignment", model={"fusion": "contrastive"}, **TTE),
    *(Case(system="lemof", phase=phase, **LEMOF) for phase in ("levels", "meta", "cross", "final")),
    *(Case(system="medm2t", phase=phase, **MEDM2T) for phase in ("unimodal", "fusion")),
    *(Case(system="medfuse", phase=phase, **MEDFUSE) for phase in ("unimodal", "fusion")),
    Case(system="m_prtm", phase="prognosis", batch=8, rows=8, pairs=15, starts=2, frames=FRAMES, **M_PRTM),
    Case(system="m_prtm", phase="segmentation", batch=1, rows=2, pairs=7, frames=FRAMES, **M_PRTM),
)


class Product:
    """A trainer that has entered the phase; `run` is its own loop."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.study = case.study(WARM + case.pairs)
        weights = {"bert": BERT} if case.system == "m_prtm" else {}
        self.cohort = cohort_of(self.study, case.rows)
        self.trainer = Trainer(study=self.study, site=site_in(folder, weights=weights), cohort=self.cohort)
        self.round = first_round(self.study, case.phase)
        self.gradients = self.trainer._enter(self.round)
        self.model = self.trainer._model
        self.batch = self.trainer._features.fill(self.trainer._batch)

    def rows(self) -> list[NDArray[np.int64]]:
        """What each step draws."""
        records = PatientRecords(rows=self.gradients.rows, patient=self.cohort.patient)
        plan, rng = self.study.training, np.random.default_rng(SEED)
        return list(shuffled_batches(records, size=plan.batch, steps=plan.steps, rng=rng))

    def run(self, wanted: Iterable[int]) -> None:
        """The steps that are wanted, in a round."""
        steps = self.gradients.plain(self.batch, steps=self.study.training.steps, seed=SEED)

        def one_by_one() -> Iterator[dict[str, Tensor]]:
            for number in wanted:
                torch.manual_seed(number)
                yield next(steps)  # the optimiser's part comes before the next one is wanted

        self.trainer._run(self.round, one_by_one())


class Plain:
    """The same model in a loop of a few lines."""

    def __init__(self, model: MultimodalModel, data: Batch, rows: Sequence[NDArray[np.int64]]) -> None:
        self.model, self.data, self.rows = model.train(), data, rows
        trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=RATE, weight_decay=0.0)

    def run(self, wanted: Iterable[int]) -> None:
        """The steps that are wanted."""
        for number in wanted:
            torch.manual_seed(number)
            batch = take(self.data, self.rows[number])
            self.optimizer.zero_grad()
            loss = self.model.losses(self.model(batch), batch).mean()
            loss.backward()
            self.optimizer.step()


def first_round(study: Study, phase: str) -> int:
    """The first round of a phase."""
    return next(k for k in range(1, study.training.rounds + 1) if study.phase(k).name == phase)


def work(case: Case, way: str, folder: Path) -> None:
    """In a child process: steps one way; leaves the weights that it ends with."""
    ready = resident()
    product = Product(case, folder / way)
    model, start = product.model, _trained(product.model)
    doer: Product | Plain = product
    if way == "plain":
        doer = Plain(model, product.batch, product.rows())
        del product
    save_file(start, folder / f"{way}_start.safetensors")
    del start
    doer.run(steps_wanted(ready))
    save_file(_trained(model), folder / f"{way}.safetensors")


def _trained(model: MultimodalModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def measured(case: Case, folder: Path) -> list[Figure]:
    """Both ratios of a case."""
    folder.mkdir()
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(case.starts):
        ways = {w: Child(Path(__file__), "--child", case.name, w, str(case.pairs), str(folder)) for w in WAYS}
        for way, seconds in in_turn(ways, steps=case.pairs, warm=WARM).items():
            taken[way] += seconds
        ours, theirs = (ways[way].end() for way in WAYS)
        check(*(load_file(folder / f"{name}.safetensors") for name in ("plain_start", *WAYS)))
    value, low, high = ratio(*taken.values())
    cut = f"{case.frames} of 16 frames, " if case.frames < 16 else ""
    note = f"{cut}{case.rows} rows, {case.batch} a step; {shown(*taken.values())}"
    memory = f"{ours:.0f} against {theirs:.0f} MB"
    print(f"{case.name}: {note}: {value:.3f} ({low:.3f} to {high:.3f}); {memory}", flush=True)
    return [
        Figure(what=f"{case.name}, time", value=value, low=low, high=high, target=MOST, better="lower", note=note),
        Figure(what=f"{case.name}, memory", value=ours / theirs, better="lower", note=memory),
    ]


def check(start: Mapping[str, Tensor], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> None:
    """Both ways went to the same weights, as far as rounding lets them."""
    went = torch.stack([(theirs[name] - value).norm() for name, value in start.items()]).norm()
    apart = torch.stack([(theirs[name] - ours[name]).norm() for name in start]).norm()
    if not apart < SAME * went:
        raise RuntimeError(f"the two ways did not do the same: they are {apart:.3g} apart after {went:.3g}")


def store(found: Sequence[Figure]) -> None:
    """Keep these figures, and those of other cases as they were."""
    file = HERE / "results" / "training_step.json"
    before = json.loads(file.read_text())["figures"] if file.exists() else []
    known = {figure["what"]: Figure(**figure) for figure in before} | {figure.what: figure for figure in found}
    names = [f"{case.name}, {kind}" for case in CASES for kind in ("time", "memory")]
    figures = [known[name] for name in names if name in known]
    keep("training_step", title=TITLE, command="python tests/benchmarks/training_step.py", figures=figures)


def main() -> None:
    """Measure every case, or be the child process of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    parser.add_argument("--pairs", type=int, help="timed a case, instead of what suits its size")
    parser.add_argument("--child", nargs=4, metavar=("CASE", "WAY", "PAIRS", "FOLDER"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bert_base(BERT)
    named = {case.name: case for case in CASES}
    if options.child:
        name, way, pairs, folder = options.child
        return work(replace(named[name], pairs=int(pairs)), way, Path(folder))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(case for name, case in named.items() if options.only in name):
            found += measured(replace(case, pairs=options.pairs or case.pairs), Path(folder) / str(number))
            store(found)


if __name__ == "__main__":
    main()
