"""A site's trainer: one round from the shared groups to the shared groups, and the judging of a model.

One process holds one `Trainer` for a study: cohort and model stay loaded between rounds. With ``world`` > 1 the
processes of one hospital form a torch.distributed group and add up their sums; each returns the same arrays.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, distributed

from fl_client.data.cohort import Cohort
from fl_client.privacy.mechanism import add_noise
from fl_client.privacy.sampler import PatientRecords, poisson_batches, shuffled_batches
from fl_client.training.judge import Judge
from fl_client.training.local import LocalGroups
from fl_client.training.optimizer import Optimizer
from fl_client.training.rows import as_batch, take
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model, load, select
from fl_shared.models.interface import Batch
from fl_shared.results import Curve, EvaluationRow
from fl_shared.site import Site
from fl_shared.study import PARTS, Study
from fl_shared.wire import Arrays, digest

if TYPE_CHECKING:
    from fl_client.privacy.clipping import GhostClipper  # opacus costs 2.6 s: only private training loads it

MICRO_BATCH = 32  # rows whose activations ghost clipping keeps at a time
TESTED_ROWS = 4  # of the per-patient gradient self-test
LOCAL = {"local": ("encoders", "adapters"), "frozen": ("adapters",), "shared": ()}


class Trainer:
    """Trains and judges one study at one site.

    Args:
        study: the approved study; names this site.
        site: this site.
        cohort: its samples for the study.
        rank: number of this process among those of the site.
        world: how many there are.
        device: where tensors live.

    Raises:
        ConsiliumError: the model cannot be built, or not be trained with privacy (exit codes 10, 11, 16).
    """

    def __init__(
        self, *, study: Study, site: Site, cohort: Cohort, rank: int = 0, world: int = 1, device: str = "cpu"
    ) -> None:
        self._study, self._site, self._cohort = study, site, cohort
        self._rank, self._world, self._device = rank, world, torch.device(device)
        weights = {name: site.folder / where for name, where in site.weights.items()}
        self._model = build_model(study, weights=weights).to(self._device)
        self._digest = digest(select(self._model, PARTS))
        self._groups = tuple(g for g in LOCAL[study.training.encoders] if g not in study.shared_groups)
        self._initial = select(self._model, self._groups)
        self._local = LocalGroups(site.state_dir / "local" / study.identity)
        self._batch = as_batch(cohort, device=self._device)
        self._records = PatientRecords(rows=cohort.rows(held_out=False), patient=cohort.patient)
        self._parameters = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        self._private = study.privacy.mode == "patient"
        self._trains = study.sites[site.name].role == "train"
        if self._trains and not len(self._records):
            raise ConsiliumError(f"{site.name}: no patient to train on", code=ExitCode.DATA)
        self._clipper = self._tested_clipper() if self._trains and self._private else None

    def initial_digest(self) -> str:
        """Digest of the whole initial model, to be compared with the coordinator's."""
        return self._digest

    def train(self, *, round: int, base: Arrays, sigma: float | None) -> Arrays:
        """One round: ``study.training.steps`` optimiser steps from ``base``.

        Without privacy the result depends on the study, the site, the round and ``base`` only. With privacy every
        step's sum over a Poisson draw of patients is clipped jointly over all trainable parameters and noised;
        sampling, dropout and noise are secret.

        Args:
            round: from 1.
            base: the shared groups.
            sigma: noise multiplier that the ledger holds for this round; None without privacy.

        Returns:
            The shared groups after the round.

        Raises:
            ConsiliumError: sigma does not go with the privacy mode (16); this site's local groups are lost (1).
            ValueError: ``base`` does not fit the model.
        """
        if self._private != (sigma is not None) or not self._trains:
            mode = self._study.privacy.mode if self._trains else "at an external site"
            raise ConsiliumError(f"no training with sigma {sigma}, privacy {mode}", code=ExitCode.PRIVACY)
        if set(base) != {name for name in self._model.state_dict() if name.split(".")[0] in self._study.shared_groups}:
            raise ValueError("the base is not the shared groups of the study")
        load(self._model, {**self._initial, **(self._local.before(round) or {}), **base})
        self._model.train()
        optimizer = Optimizer(self._parameters, self._study.training)
        with self._randomness(round):
            for gradients in self._plain_steps(round) if sigma is None else self._private_steps(sigma):
                optimizer.step(gradients)
        if self._groups and self._rank == 0:
            self._local.finish(round, select(self._model, self._groups))
        if self._world > 1:
            distributed.barrier()  # the next round of every rank starts from what rank 0 has written
        return select(self._model, self._study.shared_groups)

    def encoders(self) -> Arrays:
        """The ``encoders.*`` and ``adapters.*`` of the last finished round (of the initial model, before any)."""
        last = self._local.last
        return {**self._initial, **((last is not None and self._local.before(last + 1)) or {})}

    def evaluate(self, *, arrays: Arrays) -> tuple[list[EvaluationRow], list[Curve]]:
        """Judge a model: held-out patients at a training site, all at an external one.

        Args:
            arrays: the shared groups, and the encoders if the coordinator sends them. Without them a training site
                uses its own, an external site the initial ones.
        """
        own = self.encoders() if self._trains else self._initial
        load(self._model, {**own, **arrays})
        return Judge(study=self._study, site=self._site, cohort=self._cohort)(self._model, self._batch)

    def _plain_steps(self, round: int) -> Iterator[dict[str, Tensor]]:
        """Mean gradients; every rank draws the same batch and takes its part of it."""
        plan = self._study.training
        rng = np.random.default_rng(self._seed(round))
        for rows in shuffled_batches(self._records, size=plan.batch, steps=plan.steps, rng=rng):
            mine = take(self._batch, rows[self._rank :: self._world])
            yield self._total(self._gradient_sum(mine), divide=len(rows))

    def _private_steps(self, sigma: float) -> Iterator[dict[str, Tensor]]:
        """Noised sums over the declared number: the true one would leak."""
        if self._clipper is None:
            raise ConsiliumError("the per-patient gradient check did not run", code=ExitCode.PRIVACY)
        study, site, clip = self._study, self._site.name, self._study.privacy.clip
        q = study.sampling_rate(site)
        expected = q * study.sites[site].patients
        batches = poisson_batches(self._records, q=q, steps=study.training.steps, rank=self._rank, world=self._world)
        for rows in batches:
            sums = self._clipper.clipped_sum(take(self._batch, rows), clip=clip, micro_batch=MICRO_BATCH)
            yield self._total(add_noise(sums, sigma=sigma, clip=clip, world=self._world), divide=expected)

    def _gradient_sum(self, batch: Batch) -> dict[str, Tensor]:
        """Gradient of the sum of the rows' losses."""
        if not len(batch):
            return {name: torch.zeros_like(p) for name, p in self._parameters.items()}
        loss = self._model.losses(self._model(batch), batch).sum()
        gradients = torch.autograd.grad(loss, list(self._parameters.values()), materialize_grads=True)
        return dict(zip(self._parameters, gradients, strict=True))

    def _total(self, sums: dict[str, Tensor], *, divide: float) -> dict[str, Tensor]:
        """The ranks' sums added up, over ``divide``."""
        if self._world > 1:
            flat = torch.cat([value.flatten() for value in sums.values()])
            distributed.all_reduce(flat)
            parts = torch.split(flat, [value.numel() for value in sums.values()])
            sums = {name: part.view_as(value) for (name, value), part in zip(sums.items(), parts, strict=True)}
        return {name: value / divide for name, value in sums.items()}

    @contextmanager
    def _randomness(self, round: int) -> Iterator[None]:
        """Dropout: repeatable without privacy, secret with it."""
        cuda = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(secrets.randbits(64) if self._private else self._seed(round, f"rank {self._rank}"))
            yield

    def _seed(self, round: int, use: str = "") -> int:
        text = f"{self._study.seed}\0{self._site.name}\0{round}\0{use}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")

    def _tested_clipper(self) -> GhostClipper:
        from fl_client.privacy.clipping import GhostClipper

        clipper = GhostClipper(self._model)
        some = np.arange(min(TESTED_ROWS, len(self._records)))
        clipper.self_test(take(self._batch, self._records.one_each(some, np.random.default_rng())))
        return clipper
