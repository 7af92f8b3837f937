"""What one process trains: a trainer a study, with its data and model loaded once."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from fl_shared.errors import ConsiliumError, ExitCode, Fault
from fl_shared.judged import other_study
from fl_shared.results import Findings
from fl_shared.site import Site, load_site
from fl_shared.study import Study
from fl_shared.wire import Arrays

if TYPE_CHECKING:
    from fl_client.data.cohort import Cohort
    from fl_client.training.loop import Trainer

Read: TypeAlias = "Callable[[Site, Study], Cohort]"
Schema = dict[str, tuple[tuple[int, ...], str]]
"""Array name -> shape and dtype."""


LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


class Worker:
    """Trainers of one site, one a study. Imports torch and reads data on first use; ``read`` reads another way."""

    def __init__(
        self, site: Site, *, rank: int = 0, world: int = 1, device: str = "cpu", read: Read | None = None
    ) -> None:
        self._site, self._rank, self._world, self._device, self._read = site, rank, world, device, read
        self._trainers: dict[str, Trainer] = {}
        self._schemas: dict[str, Schema] = {}

    def load(self, study: Study) -> None:
        """Read the study's cohort and build its model, unless that is done.

        Raises:
            ConsiliumError: the data are rejected, or the model cannot be built.
        """
        self._trainer(study)

    def trained_on(self, study: Study) -> frozenset[str]:
        """Modalities that some training patient has here."""
        return self._trainer(study).trained_on()

    def schema(self, study: Study) -> Schema:
        """Every array of the study's model."""
        from fl_shared.models.build import build_model

        if study.identity not in self._schemas:
            weights = {name: self._site.folder / path for name, path in self._site.weights.items()}
            state = build_model(study, weights=weights).state_dict()
            self._schemas[study.identity] = {
                name: (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")) for name, tensor in state.items()
            }
        return self._schemas[study.identity]

    def initial_digest(self, study: Study) -> str:
        """Digest of the whole initial model."""
        return self._trainer(study).initial_digest()

    def train(self, study: Study, *, round: int, base: Arrays, sigma: float | None) -> Arrays:
        """One round from the shared groups ``base``; sigma: noise multiplier, None without privacy."""
        return self._trainer(study).train(round=round, base=base, sigma=sigma)

    def encoders(self, study: Study) -> Arrays:
        """The site's encoders and adapters."""
        return self._trainer(study).encoders()

    def statistics(self, study: Study, *, sigma: float | None) -> Arrays:
        """Counts of the study's training patients."""
        return self._trainer(study).statistics(sigma=sigma)

    def recalibration(self, study: Study, *, arrays: Arrays, tasks: tuple[str, ...], sigma: float | None) -> Arrays:
        """Counts of the training patients' logits under a model."""
        return self._trainer(study).recalibration(arrays=arrays, tasks=tasks, sigma=sigma)

    def evaluate(
        self, study: Study, *, arrays: Arrays, name: str = "federated", sigma: float | None = None
    ) -> Findings:
        """Judge the model on the site's patients; sigma: noise multiplier, None without."""
        if study.judged is None or study.judged.against is None:
            return self._trainer(study).evaluate(arrays=arrays, name=name, sigma=sigma)
        from fl_client.training.pair import judge_pair

        return judge_pair(self._trainer(study), self._trainer(other_study(study)), arrays=arrays, name=name)

    def learned(self, study: Study, *, round: int, arrays: Arrays) -> Findings:
        """Judge the model of a round in the light form of the learning curves."""
        return self._trainer(study).learned(round=round, arrays=arrays)

    def _trainer(self, study: Study) -> Trainer:
        from fl_client.data.load import load_cohort
        from fl_client.training.loop import Trainer

        if study.identity not in self._trainers:
            cohort = self._read(self._site, study) if self._read else load_cohort(self._site, study)[0]
            self._trainers[study.identity] = Trainer(
                study=study, site=self._site, cohort=cohort, rank=self._rank, world=self._world, device=self._device
            )
        return self._trainers[study.identity]


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A `ConsiliumError` on its way between processes."""

    message: str
    code: ExitCode
    faults: Sequence[Fault]


class RemoteWorker:
    """A `Worker` in a Ray actor: told paths, JSON and arrays, reads site and data itself."""

    def __init__(self, site_file: str, *, state: str, rank: int, world: int, threads: int, gpu: bool) -> None:
        import torch

        torch.set_num_threads(threads)
        self._rank, self._world = rank, world
        self._device = "cuda" if gpu else "cpu"
        site = load_site(Path(site_file)).model_copy(update={"state": Path(state)})
        self._worker = Worker(site, rank=rank, world=world, device=self._device)

    def join(self, rendezvous: str, seconds: float) -> None:
        """Meet the other actors of this host: over a file, since a TCP store would listen on every interface."""
        from torch import distributed

        os.environ |= LOOPBACK
        distributed.init_process_group(
            "nccl" if self._device == "cuda" else "gloo",
            init_method=Path(rendezvous).as_uri(),
            rank=self._rank,
            world_size=self._world,
            timeout=timedelta(seconds=seconds),
        )

    def call(self, method: str, study_json: str, arguments: dict[str, Any]) -> Any:
        """Run a method of `Worker`; a `ConsiliumError` comes back as a `Failure`."""
        study = Study.model_validate_json(study_json)
        try:
            return getattr(self._worker, method)(study, **arguments)
        except ConsiliumError as error:
            return Failure(message=error.message, code=error.code, faults=error.faults)
