"""The gradients of a phase, step by step: plain means, or clipped and noised sums."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed

from fl_client.data.cohort import Cohort
from fl_client.privacy.mechanism import add_noise
from fl_client.privacy.sampler import PatientRecords, poisson_batches, shuffled_batches
from fl_client.training.features import OWN_INPUTS
from fl_client.training.rows import RowReader, share_of, trained_rows
from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.models.interface import Batch, take
from fl_shared.models.model import CHOOSE, MultimodalModel
from fl_shared.study import PhasePlan, Study

if TYPE_CHECKING:
    from fl_client.privacy.clipping import GhostClipper  # opacus costs 2.6 s: only private training loads it
    from fl_client.privacy.grouped import GroupClipper

MICRO_BATCH = 32  # rows whose activations ghost clipping keeps at a time
TESTED_ROWS = 4  # of the per-patient gradient self-test


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among those of the site."""

    rank: int
    world: int

    def total(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """The ranks' sums added up."""
        if self.world == 1:
            return sums
        flat = torch.cat([value.flatten() for value in sums.values()])
        distributed.all_reduce(flat)
        parts = torch.split(flat, [value.numel() for value in sums.values()])
        return {name: part.view_as(value) for (name, value), part in zip(sums.items(), parts, strict=True)}


class Gradients:
    """What trains in one phase at one site.

    Args:
        model: has entered a round of the phase.
        study: names the site.
        cohort: its samples.
        phase: whose patients are trained on.
        ranks: this process among the site's.
        batch: all rows, some of which are tried: what cannot be trained is told before the first step.

    Raises:
        ConsiliumError: nothing that the phase trains has a gradient (exit code 10); no patient to train on (12);
            per-patient gradients are not exact (16).
    """

    def __init__(
        self, model: MultimodalModel, *, study: Study, cohort: Cohort, phase: PhasePlan, ranks: Ranks, batch: Batch
    ) -> None:
        self._model, self._study, self._site, self._ranks = model, study, cohort.site, ranks
        self.phase = phase
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        rows = trained_rows(cohort, phase, study=study)
        if not len(rows):
            raise ConsiliumError(f"{cohort.site}: no patient to train on", code=ExitCode.DATA)
        self._records = PatientRecords(rows=rows, patient=cohort.patient)
        self._clipper = self._tried(batch, private=study.privacy.mode == "patient")

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row numbers of the phase's patients."""
        return self._records.rows

    def close(self) -> None:
        """Take the clipping's hooks off the model."""
        if self._clipper is not None:
            self._clipper.close()

    def plain(self, batch: Batch, *, steps: int, seed: int) -> Iterator[dict[str, Tensor]]:
        """Mean gradients; every rank draws the same rows of ``batch`` and takes its part of them."""
        rng = np.random.default_rng(seed)
        read = RowReader(batch)
        for rows in shuffled_batches(self._records, size=self._study.training.batch, steps=steps, rng=rng):
            mine = read(rows[self._ranks.rank :: self._ranks.world])
            yield self._ranks.total(self._gradients(mine, divide=len(rows)))

    def private(self, batch: Batch, *, sigma: float) -> Iterator[dict[str, Tensor]]:
        """Noised sums over the declared number: the true one would leak."""
        if self._clipper is None:
            raise ConsiliumError("the per-patient gradient check did not run", code=ExitCode.PRIVACY)
        study, clip, ranks = self._study, self._study.privacy.clip, self._ranks
        q = study.sampling_rate(self._site)
        expected = q * study.sites[self._site].patients * share_of(self.phase)
        steps, read = study.training.steps, RowReader(batch)
        every = study.privacy.records == "all"
        for rows in poisson_batches(self._records, q=q, steps=steps, every=every, rank=ranks.rank, world=ranks.world):
            sums = self._clipper.clipped_sum(read(rows), clip=clip, micro_batch=MICRO_BATCH)
            noised = ranks.total(add_noise(sums, sigma=sigma, clip=clip, world=ranks.world))
            yield {name: value.div_(expected) for name, value in noised.items()}

    def _gradients(self, batch: Batch, *, divide: int) -> dict[str, Tensor]:
        """Gradients of the sum of the rows' losses over ``divide``: the loss is divided, which costs no second pass."""
        if not len(batch):
            return {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        loss = self._model.losses(self._model(batch), batch).sum() / divide
        gradients = torch.autograd.grad(loss, list(self._parameters.values()), materialize_grads=True)
        return dict(zip(self._parameters, gradients, strict=True))

    def _tried(self, batch: Batch, *, private: bool) -> GhostClipper | GroupClipper | None:
        """One forward pass of few patients, and under privacy their tested clipping; random numbers are not used up."""
        if self.phase.objective == CHOOSE:
            return None
        some = np.arange(min(TESTED_ROWS if private else 1, len(self._records)))
        every = self._study.privacy.records == "all"
        rows = self._records.all_of(some) if every else self._records.one_each(some, np.random.default_rng())
        part = take(replace(batch, features={}), rows)
        constant = () if self.phase.objective in OWN_INPUTS else self._model.constant_encoders()
        part = replace(part, features={name: self._model.features(name, part) for name in constant})
        with torch.random.fork_rng(devices=[part.index.device] if part.index.device.type == "cuda" else []):
            if not self._model.losses(self._model(part), part).requires_grad:
                raise _untrained(self.phase)
            if not private:
                return None
            from fl_client.privacy.clipping import GhostClipper
            from fl_client.privacy.grouped import GroupClipper

            clipper = GroupClipper(self._model) if every else GhostClipper(self._model)
            clipper.self_test(part)
            return clipper


def _untrained(phase: PhasePlan) -> ConsiliumError:
    problem = f"nothing that the objective '{phase.objective}' depends on is trained"
    mend = "Train more, or remove this phase."
    fault = Fault(
        file="study.toml",
        key=f"training.phases: {phase.name}",
        value=", ".join(phase.trains),
        problem=problem,
        mend=mend,
    )
    return ConsiliumError("the model cannot be trained as the study says", code=ExitCode.STUDY, faults=[fault])
