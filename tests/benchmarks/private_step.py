"""What a training step under patient-level privacy costs, against the same step without.

    OMP_NUM_THREADS=1 python tests/benchmarks/private_step.py

Both are the product's own steps, on all rows of the cohort (the sampling rate is 1): rows, gradients, optimiser; the
private one clips every patient's gradient by ghost norms and adds noise. Beside it, for comparison, Opacus' usual way
(`GradSampleModule`, which keeps the gradient of every patient) with the same clipping, noise and optimiser. Memory: all
that the process holds while it trains, but for the libraries.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from opacus import GradSampleModule
from paired import Child, in_turn, ratio, resident, shown, steps_wanted
from published import INPUTS, bert_base, cohort_of, site_in, study_of, with_bert
from targets import Figure, keep
from torch import Tensor

from fl_client.privacy.mechanism import add_noise
from fl_client.training.loop import Trainer
from fl_client.training.rows import RowReader
from fl_shared.study import Study

SIGMA, CLIP = 1.0, 1.0
STEPS = 10_000  # more than any measurement takes
SLOWER, LARGER = 2.5, 2.0  # targets of the default fusion
BERT = Path(tempfile.gettempdir()) / "random_bert_base"
HOOKS = "opacus hooks"
WAYS = ("plain", "ghost", HOOKS)
WARM = 1  # steps that do not count


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained: rows of a step, and how many pairs are timed."""

    name: str
    inputs: Mapping[str, Mapping[str, Any]]
    encoders: str
    rows: int
    pairs: int
    bert: bool = False
    model: Mapping[str, Any] = field(default_factory=dict)

    def study(self, way: str) -> Study:
        """With privacy, or without."""
        inputs = {**self.inputs}
        if self.bert:
            inputs["text"] = with_bert(inputs["text"], BERT)
        return study_of(
            "attention",
            inputs,
            patients=self.rows,
            batch=self.rows,
            model=self.model,
            mode="patient" if way == "ghost" else "none",
            rounds=1,
            steps=STEPS,
            encoders=self.encoders,
        )


NOTES = {**INPUTS["text"], "max_tokens": 128}
FOUR = {"cine": INPUTS["cine"] | {"size": 64}, "ecg": INPUTS["ecg10"], "ehr": INPUTS["ehr"], "text": {"kind": "text"}}
CASES = (
    Case(name="default fusion, 32 rows", inputs=FOUR, encoders="frozen", rows=32, pairs=15, model={"depth": 2}),
    Case(name="default fusion, 128 rows", inputs=FOUR, encoders="frozen", rows=128, pairs=5, model={"depth": 2}),
    Case(
        name="LoRA of a BERT-base, 8 rows of 128 tokens",
        inputs={"text": NOTES, "ehr": INPUTS["ehr"]},
        encoders="adapters",
        rows=8,
        pairs=9,
        bert=True,
    ),
)


def work(case: Case, way: str, folder: Path) -> None:
    """In a child process: steps one way, by the product's own loop."""
    ready = resident()
    study = case.study(way)
    site = site_in(folder / way.replace(" ", "_"), weights={"bert": BERT} if case.bert else {})
    trainer = Trainer(study=study, site=site, cohort=cohort_of(study, case.rows))
    gradients, batch = trainer._enter(1), trainer._features.fill(trainer._batch)
    steps = {
        "plain": lambda: gradients.plain(batch, steps=STEPS, seed=1),
        "ghost": lambda: gradients.private(batch, sigma=SIGMA),
        HOOKS: lambda: _hooked(trainer, RowReader(batch)),
    }[way]()
    trainer._run(1, (next(steps) for _ in steps_wanted(ready)))


def _hooked(trainer: Trainer, read: Callable[..., Any]) -> Iterator[dict[str, Tensor]]:
    """Noised means by the gradients of all single patients (Abadi et al. 2016, algorithm 1)."""
    model = trainer._model
    hooked = GradSampleModule(model, loss_reduction="sum", strict=False)
    rows = trainer._gradients.rows  # type: ignore[union-attr]
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    while True:
        batch = read(rows)
        model.zero_grad(set_to_none=True)
        for parameter in named.values():
            parameter.grad_sample = None  # type: ignore[attr-defined]
        model.losses(hooked(batch), batch).sum().backward()
        single: dict[str, Tensor] = {name: p.grad_sample for name, p in named.items()}  # type: ignore[attr-defined]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in single.values()]).norm(dim=0)
        weights = (CLIP / norms).clamp(max=1.0)
        sums = {name: torch.einsum("b,b...->...", weights, g) for name, g in single.items()}
        del single
        yield {n: v / len(rows) for n, v in add_noise(sums, sigma=SIGMA, clip=CLIP).items()}


def measured(case: Case, folder: Path) -> list[Figure]:
    """Time and memory of both private ways over those of the plain step."""
    ways = {way: Child(Path(__file__), "--child", case.name, way, str(folder)) for way in WAYS}
    taken = in_turn(ways, steps=case.pairs, warm=WARM)
    peaks = {way: child.end() for way, child in ways.items()}
    found = []
    for way in WAYS[1:]:
        value, low, high = ratio(taken[way], taken["plain"])
        note, memory = shown(taken[way], taken["plain"]), f"{peaks[way]:.0f} against {peaks['plain']:.0f} MB"
        print(f"{case.name}, {way}: {note}: {value:.3f} ({low:.3f} to {high:.3f}); {memory}", flush=True)
        aims = (SLOWER, LARGER) if way == "ghost" and case.encoders == "frozen" else (None, None)
        name, larger = f"{case.name}, {way}", peaks[way] / peaks["plain"]
        found += [
            Figure(what=f"{name}, time", value=value, low=low, high=high, target=aims[0], better="lower", note=note),
            Figure(what=f"{name}, memory", value=larger, target=aims[1], better="lower", note=memory),
        ]
    return found


def main() -> None:
    """Measure every case, or be the child process of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name holds this; nothing is stored then")
    parser.add_argument("--child", nargs=3, metavar=("CASE", "WAY", "FOLDER"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    bert_base(BERT)
    named = {case.name: case for case in CASES}
    if options.child:
        name, way, folder = options.child
        return work(named[name], way, Path(folder))
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(case for name, case in named.items() if options.only in name):
            found += measured(case, Path(folder) / str(number))
    if not options.only:
        title = "A private training step against the same step without privacy (CPU seconds of one thread, ratio)"
        keep("private_step", title=title, command="python tests/benchmarks/private_step.py", figures=found)


if __name__ == "__main__":
    main()
