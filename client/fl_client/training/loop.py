"""A site's trainer: one round from the shared groups to the shared groups, and the judging of a model.

One process holds one `Trainer` for a study: cohort and model stay loaded between rounds. With ``world`` > 1 the
processes of one hospital form a torch.distributed group and add up their sums; each returns the same arrays.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate

import torch
from torch import Tensor, distributed

from fl_client.data.cohort import Cohort
from fl_client.privacy.whole_update import noised_update
from fl_client.training.features import FeatureCache
from fl_client.training.findings import judged
from fl_client.training.gradients import Gradients, Ranks
from fl_client.training.judge import Judge
from fl_client.training.learning import light
from fl_client.training.local import LocalGroups
from fl_client.training.noised import judge_noised
from fl_client.training.optimizer import Optimizer
from fl_client.training.recalibration import recalibration
from fl_client.training.rows import as_batch
from fl_client.training.statistics import statistics
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model, load, select
from fl_shared.models.interface import Batch, take
from fl_shared.models.model import CHOOSE, MultimodalModel
from fl_shared.results import Findings
from fl_shared.site import Site
from fl_shared.study import Study
from fl_shared.wire import Arrays, digest


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
        self._ranks, self._device = Ranks(rank=rank, world=world), torch.device(device)
        weights = {name: site.folder / where for name, where in site.weights.items()}
        self._model = build_model(study, weights=weights).to(self._device)
        self._digest = digest(select(self._model))
        self._initial = select(self._model, study.is_local)
        self._local = LocalGroups(site.state_dir / "local" / study.identity)
        self._batch = as_batch(cohort, device=self._device)
        self._features = FeatureCache(self._model, self._batch)
        self._private = study.privacy.mode == "patient"
        self._trains = study.sites[site.name].role == "train"
        self._gradients: Gradients | None = None
        if self._trains:
            self._try_phases()
            self._features.fill(self._batch)  # before a round is paid for

    def trained_on(self) -> frozenset[str]:
        """Modalities that some training patient has."""
        rows = self._cohort.rows(held_out=False)
        return frozenset(name for name, there in self._cohort.present.items() if there[rows].any())

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
            sigma: noise multiplier of what this site adds in this round; None without privacy.

        Returns:
            The shared groups after the round.

        Raises:
            ConsiliumError: sigma does not go with the privacy mode (16); this site's local groups are lost (1).
            ValueError: ``base`` does not fit the model.
        """
        if (self._study.privacy.mode != "none") != (sigma is not None) or not self._trains:
            mode = self._study.privacy.mode if self._trains else "at an external site"
            raise ConsiliumError(f"no training with sigma {sigma}, privacy {mode}", code=ExitCode.PRIVACY)
        if set(base) != {name for name in self._model.state_dict() if self._study.is_shared(name)}:
            raise ValueError("the base is not the shared groups of the study")
        load(self._model, {**self._initial, **(self._local.before(round) or {}), **base})
        gradients = self._enter(round)
        batch = self._features.fill(self._batch)
        if self._model.objective == CHOOSE and self._private:
            raise ConsiliumError("objective 'choose' has no noise", code=ExitCode.PRIVACY)
        if self._model.objective == CHOOSE:
            self._model.eval()
            self._model.choose(take(batch, gradients.rows))
        elif sigma is None or not self._private:
            self._run(round, gradients.plain(batch, steps=self._study.training.steps, seed=self._seed(round)))
        else:
            self._run(round, gradients.private(batch, sigma=sigma))
        if self._initial and self._ranks.rank == 0:
            self._local.finish(round, select(self._model, self._study.is_local))
        if self._ranks.world > 1:
            distributed.barrier()  # the next round of every rank starts from what rank 0 has written
        update = select(self._model, lambda name: self._study.releases(name, round))
        if sigma is None or self._private:
            return update
        return noised_update(update, base, sigma=sigma, clip=self._study.privacy.clip)

    def encoders(self) -> Arrays:
        """What this site has of its own, after its last finished round (of the initial model, before any)."""
        last = self._local.last
        return {**self._initial, **((last is not None and self._local.before(last + 1)) or {})}

    def statistics(self, *, sigma: float | None) -> Arrays:
        """Counts of the training patients, noised or (sigma None) under the rules for small cells."""
        return statistics(self._study, self._cohort, sigma=sigma, min_patients=self._fewest)

    def recalibration(self, *, arrays: Arrays, tasks: Sequence[str], sigma: float | None) -> Arrays:
        """Counts of the training patients' logits; arguments as `evaluate`, ``tasks`` are those with output biases."""
        load(self._model, {**self.encoders(), **arrays})
        return recalibration(
            self._study,
            self._cohort,
            self._model,
            self._batch,
            tasks=tasks,
            sigma=sigma,
            min_patients=self._fewest,
        )

    @property
    def _fewest(self) -> int:
        """Patients below whom nothing is told without noise: the stricter of study and site."""
        return max(self._study.evaluation.min_patients, self._site.privacy.min_patients)

    def evaluate(self, *, arrays: Arrays, name: str = "federated", sigma: float | None = None) -> Findings:
        """Judge a model: held-out patients at a training site, all at an external one.

        A training site with a model of its own (`Study.is_personal`) judges that too, as ``personal``: its own local
        groups under the common ones, fine-tuned.

        Args:
            arrays: the shared groups, and the local ones if the coordinator sends their mean. Without it a training
                site uses its own, an external site the initial ones.
            name: of the model, in the results.
            sigma: noise multiplier that the ledger holds; the common model alone is judged then.

        Raises:
            ConsiliumError: noise without a planned epsilon, or the other way round (16).
        """
        epsilon = self._study.evaluation.epsilon
        if (epsilon is None) != (sigma is None):
            raise ConsiliumError(f"no judging with sigma {sigma}, epsilon {epsilon}", code=ExitCode.PRIVACY)
        own = self.encoders() if self._trains else self._initial
        judge = Judge(study=self._study, site=self._site, cohort=self._cohort)
        load(self._model, {**own, **arrays})
        if sigma is not None and epsilon is not None:
            rows = judge_noised(judge, self._model, self._batch, name=name, sigma=sigma, epsilon=epsilon)
            return Findings(evaluation=tuple(rows))
        found = judged(judge, self._model, self._batch, name=name)
        if self._trains and self._study.is_personal and name == "federated":
            load(self._model, {**arrays, **own})
            self._finetune()
            more = judged(judge, self._model, self._batch, name="personal", whole=False).evaluation
            found = found.model_copy(update={"evaluation": found.evaluation + more})
        return found

    def learned(self, *, round: int, arrays: Arrays) -> Findings:
        """Judge the model that a round ended with, in the light form of the learning curves, on held-out patients.

        Args:
            round: that this site has finished.
            arrays: the shared groups; what this site has of its own is as its last round until then left it.

        Raises:
            ConsiliumError: this site's local groups of that round are lost (1).
        """
        load(self._model, {**self._initial, **(self._local.before(round + 1) or {}), **arrays})
        self._model.enter(round)
        judge = Judge(study=self._study, site=self._site, cohort=self._cohort)
        return light(judge, self._model, self._batch, known=self._features.fill(self._batch), round=round)

    def finished(self, arrays: Arrays) -> tuple[Judge, MultimodalModel, Batch]:
        """The finished model that the arrays make, with who judges it and on what."""
        load(self._model, {**self._initial, **arrays})
        return Judge(study=self._study, site=self._site, cohort=self._cohort), self._model, self._batch

    def _try_phases(self) -> None:
        """What cannot be trained in some phase is told before the first round, not after hours or a spent budget."""
        lengths = [phase.rounds for phase in self._study.training.phases]
        for first in reversed([*accumulate(lengths[:-1], initial=1)]):  # so that the first phase is ready at the end
            self._enter(first)

    def _enter(self, round: int) -> Gradients:
        """Be ready to train a round: its parameters, its patients, and under privacy their tested clipping."""
        self._model.enter(round)
        phase = self._study.phase(round)
        if self._gradients is None or self._gradients.phase != phase:
            if self._gradients is not None:
                self._gradients.close()
                self._gradients = None
            self._gradients = Gradients(
                self._model, study=self._study, cohort=self._cohort, phase=phase, ranks=self._ranks, batch=self._batch
            )
        return self._gradients

    def _run(self, round: int, steps: Iterator[dict[str, Tensor]]) -> None:
        """Optimiser steps with a fresh state.

        FedProx pulls what is shared back to where the round began (Li et al. 2020, Federated optimization in
        heterogeneous networks, eq. 2).
        """
        plan, rate = self._study.training, self._study.phase(round).learning_rate
        parameters = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        optimizer = Optimizer(parameters, plan if rate is None else plan.model_copy(update={"learning_rate": rate}))
        shared = {n: p.detach() for n, p in parameters.items() if plan.proximal and self._study.is_shared(n)}
        start = {name: p.clone() for name, p in shared.items()}
        self._model.train()
        with self._randomness(round):
            for gradients in steps:
                pull = {name: plan.proximal * (p - start[name]) for name, p in shared.items()}
                optimizer.step(_sum(gradients, pull) if pull else gradients)
                del gradients  # before the next ones are made

    def _finetune(self) -> None:
        """More steps of the last phase on this site alone, never released."""
        after, steps = self._study.training.rounds + 1, self._study.training.finetune
        if steps:
            gradients = self._enter(after)
            self._run(after, gradients.plain(self._features.fill(self._batch), steps=steps, seed=self._seed(after)))

    @contextmanager
    def _randomness(self, round: int) -> Iterator[None]:
        """Dropout: repeatable without privacy, secret with it."""
        cuda = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            use = f"rank {self._ranks.rank}"
            torch.manual_seed(secrets.randbits(64) if self._private else self._seed(round, use))
            yield

    def _seed(self, round: int, use: str = "") -> int:
        text = f"{self._study.seed}\0{self._site.name}\0{round}\0{use}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _sum(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value + second[name] if name in second else value for name, value in first.items()}
