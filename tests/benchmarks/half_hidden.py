"""With half of the strongest modality hidden at test time: each native fusion less the best single remaining modality.

Both are judged on the same patients: those who have what remains. Whoever lacks it has nothing that it could tell
them, so that its figure and that of everybody else are of two groups of patients.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from comparison_grids import Cohort
from targets import Figure

from fl_client.training.hidden import hidden_inputs
from fl_client.training.judge import Judge, Told, predict
from fl_client.training.loop import Trainer
from fl_server.comparison.cohorts import SharedReader
from fl_server.comparison.contrasts import contrasts, of_pair
from fl_server.comparison.derive import Cell, derive
from fl_server.comparison.plan import FEDERATED
from fl_server.comparison.result import ComparisonResult, Contrast, Number
from fl_server.promotion.source import model_of, read_run
from fl_shared.counts import primary, subsets
from fl_shared.metrics.paired import paired_differences
from fl_shared.results import Difference
from fl_shared.site import load_site
from fl_shared.subgroups import hidden_name

HALF = hidden_name(0.5)


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a model says of a site's samples; of one that reads several modalities, half of the strongest hidden."""

    judge: Judge
    told: Told

    @property
    def names(self) -> list[str]:
        """Of the samples that it can read."""
        return [self.judge.cohort.sample_ids[row] for row in self.told.rows]


@dataclass(frozen=True, kw_only=True)
class HalfHidden:
    """The finished federated models of a comparison, judged at its external sites.

    file: the comparison's, which stands beside the sites; cells: folder of its runs.
    """

    file: Path
    cells: Path
    cohort: Cohort
    read: SharedReader = field(default_factory=SharedReader)

    def figures(self, result: ComparisonResult, whole: Mapping[str, Number]) -> Iterator[Figure]:
        """``whole``: variant -> its headline number with nothing hidden, by which the best single one is chosen."""
        alone = self.cohort.alone
        native = [each for each in result.variants if each.native and each.name in whole and each.name not in alone]
        for strong in (self.cohort.strong, *self.cohort.as_strong):
            rest = [name for name, kept in alone.items() if len(kept) == 1 and strong not in kept]
            best = max(rest, key=lambda name: whole[name].value or 0.0)
            found = self._contrasts([each.name for each in native], strong, against=best)
            less = {one.variant: one for one in found}
            words = f"less {alone[best][0]} alone ({whole[best].value:.3f}) on the same patients"
            for each in native:
                yield _figure(less[each.name], f"half of {strong} hidden, federated, external: {each.title}", words)

    def _contrasts(self, native: Iterable[str], strong: str, *, against: str) -> Iterator[Contrast]:
        grid = derive(self.file)
        cells = {(cell.variant, cell.seed): cell for cell in grid.cells if cell.mode == FEDERATED}
        roles = {name: plan.role for name, plan in grid.parent.sites.items()}
        alone = {
            (seed, site): self._said(cells[against, seed], site, strong)
            for seed in grid.plan.seeds
            for site in grid.parent.external_sites
        }
        found = {}
        for name in native:
            rows: dict[int, list[Difference]] = {seed: [] for seed in grid.plan.seeds}
            for (seed, site), other in alone.items():
                rows[seed] += self._less(self._said(cells[name, seed], site, strong), other)
            found[name, FEDERATED] = [of_pair(told, roles) for told in rows.values()]
        task = self.cohort.task
        labels = grid.parent.tasks[task].told
        head = (task, "macro" if len(labels) > 1 else labels[0], "", "auroc")
        return (one for one in contrasts(found, against=against)
                if (one.task, one.label, one.site, one.metric) == head)  # fmt: skip

    def _said(self, cell: Cell, site_name: str, strong: str) -> Said:
        run = read_run(self.cells / cell.studies[0].study.name)
        site, study = load_site(self.file.parent / site_name), run.study
        cohort = self.read(site, study)
        trainer = Trainer(study=study, site=site, cohort=cohort)
        judge, model, batch = trainer.finished(model_of(run, "federated").finished.arrays)
        plan = study.evaluation.model_copy(update={"hidden": (0.5,), "hidden_of": (strong,)})
        many = len(study.modalities) > 1
        hidden = hidden_inputs(cohort, study.model_copy(update={"evaluation": plan})) if many else {}
        told = predict(
            model,
            batch,
            rows=judge.rows(),
            tasks={self.cohort.task: study.tasks[self.cohort.task]},
            subsets=subsets(study),
            hidden=hidden,
        )
        return Said(judge=judge, told=told[HALF if many else primary(study)])

    def _less(self, one: Said, other: Said) -> list[Difference]:
        """Of the samples that the other can read."""
        at = {name: row for row, name in enumerate(one.names)}
        same = np.array([at[name] for name in other.names])
        study, task, told = one.judge.study, self.cohort.task, other.told
        return paired_differences(
            site=one.judge.site.name,
            role="external",
            task=task,
            plan=study.tasks[task],
            modalities="all",
            model=FEDERATED,
            against="alone",
            predictions=one.told.predictions[task][same],
            predictions_against=told.predictions[task],
            targets=told.targets[task],
            mask=told.mask[task],
            patients=other.judge.cohort.patient[told.rows],
            bootstrap=study.evaluation.bootstrap,
            seed=study.seed,
            min_patients=one.judge.fewest,
        )


def _figure(less: Contrast, what: str, words: str) -> Figure:
    if less.value is None:
        raise ValueError(f"{what}: {less.note}")
    word = "may be chance" if less.noise else "differs"
    note = f"{words}; p {less.p_holm:.3f} (Holm): {word}"
    return Figure(what=what, value=less.value, low=less.low, high=less.high, target=0.0, note=note)
