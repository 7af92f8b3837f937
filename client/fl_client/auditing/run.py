"""One training of the study's model on this site alone, with some patients left in or out at random, and attacked.

The training patients are split in two groups, and each of their members takes part with probability 1/2. The *watched*
are as they are: how well the final model's loss tells who took part is the membership-inference AUC (Yeom et al. 2018,
Privacy risk in machine learning, section 3, with the initial model's loss as reference). The *canaries* get the
outcomes of other patients, which only a model that trained on them can know: guesses about them bound epsilon from
below.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fl_client.auditing.gates import Gate, noise, quiet, sensitivity
from fl_client.auditing.one_run import epsilon_lower_bound, guesses
from fl_client.data.cohort import Cohort
from fl_client.privacy.sampler import PatientRecords
from fl_client.training.loop import Trainer
from fl_client.training.rows import as_batch, trained_rows
from fl_shared.accounting import epsilon
from fl_shared.budget import budget
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.metrics.discrimination import auroc
from fl_shared.models.build import build_model, load, select
from fl_shared.models.interface import Batch, take
from fl_shared.models.model import MultimodalModel
from fl_shared.site import Site
from fl_shared.study import Study
from fl_shared.wire import Arrays

FEWEST = 20  # training patients with which an attack means anything
TRIED = 32  # patients of the sensitivity gate
ROWS = 64  # a forward pass


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What was found; ``claimed`` is the epsilon that the training paid for, None without privacy.

    watched, canaries: how many patients; guessed, right: of the canaries; floor: lower bound of epsilon (95 %).
    """

    gates: tuple[Gate, ...]
    claimed: float | None
    delta: float
    watched: int
    membership_auc: float
    canaries: int
    guessed: int
    right: int
    floor: float

    @property
    def holds(self) -> bool:
        """Whether the exact gates hold, and no attack refutes the claim."""
        return all(gate.holds for gate in self.gates) and (self.claimed is None or self.floor <= self.claimed)


def audit(site: Site, study: Study, cohort: Cohort, *, done: Callable[[int], None] = lambda _: None) -> Audit:
    """Check and attack one study's training at this site. Nothing is released, so nothing is paid.

    Args:
        site: this site.
        study: whose training is attacked, all its rounds at this site alone.
        cohort: this site's samples.
        done: called with the number of each finished round.

    Raises:
        ConsiliumError: too few training patients (12), or the study does not train here or cannot be trained (13, 16).
    """
    if study.sites[site.name].role != "train":
        raise ConsiliumError(f"{site.name} does not train in this study: nothing to audit", code=ExitCode.NOT_APPROVED)
    trained = np.unique(cohort.patient[cohort.rows(held_out=False)])
    if len(trained) < FEWEST:
        raise ConsiliumError(f"{len(trained)} training patients: an audit needs {FEWEST}", code=ExitCode.DATA)
    delta = min(study.privacy.delta, site.privacy.delta)
    sigma, claimed = _paid(study, site, delta)
    rng = np.random.default_rng()
    watched, canaries = np.array_split(rng.permutation(trained), 2)
    member = rng.random(len(cohort.held_out)) < 0.5
    altered = _mislabelled(cohort, canaries, rng)
    part = replace(altered, held_out=altered.held_out | ~member)
    initial, final = _trained(site, study, part, sigma=sigma, done=done)
    batch = as_batch(altered, device=torch.device("cpu"))
    learned = _losses(site, study, batch, initial) - _losses(site, study, batch, final)
    guessed, right = guesses(learned[canaries], member[canaries])
    return Audit(
        gates=_gates(site, study, cohort, sigma=sigma),
        claimed=claimed,
        delta=delta,
        watched=len(watched),
        membership_auc=float(auroc(learned[watched], member[watched])),
        canaries=len(canaries),
        guessed=guessed,
        right=right,
        floor=epsilon_lower_bound(delta=delta, canaries=len(canaries), guessed=guessed, right=right),
    )


def _paid(study: Study, site: Site, delta: float) -> tuple[float | None, float | None]:
    """Noise multiplier of the study's training here, and the epsilon that it is paid with."""
    event = budget(study, site.name, delta=delta).training
    return (None, None) if event is None else (event.sigma, epsilon([event], delta=delta))


def _mislabelled(cohort: Cohort, canaries: NDArray[np.int64], rng: np.random.Generator) -> Cohort:
    """The cohort in which every canary has the outcomes of another one."""
    first = PatientRecords(rows=np.arange(len(cohort)), patient=cohort.patient)
    row_of = dict(zip(first.patients.tolist(), first.one_each(np.arange(len(first)), rng).tolist(), strict=True))
    shuffled = rng.permutation(canaries)
    other = dict(zip(shuffled.tolist(), np.roll(shuffled, 1).tolist(), strict=True))
    source = np.array([row_of[other[p]] if p in other else row for row, p in enumerate(cohort.patient.tolist())])
    return replace(
        cohort,
        targets={task: values[source] for task, values in cohort.targets.items()},
        target_mask={task: known[source] for task, known in cohort.target_mask.items()},
    )


def _trained(
    site: Site, study: Study, cohort: Cohort, *, sigma: float | None, done: Callable[[int], None]
) -> tuple[Arrays, Arrays]:
    """The model before and after all rounds at this site; its files go to a folder that is removed."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(study=study, site=site.model_copy(update={"state": Path(scratch)}), cohort=cohort)
        initial = model = select(_model(site, study))
        for number in range(1, study.training.rounds + 1):
            base = {name: array for name, array in model.items() if study.is_shared(name)}
            model = {**model, **trainer.train(round=number, base=base, sigma=sigma)}
            done(number)
        return initial, {**model, **trainer.encoders()}


@torch.no_grad()
def _losses(site: Site, study: Study, batch: Batch, arrays: Arrays) -> NDArray[np.float64]:
    """(P,) mean loss of every patient's records, under the objective of the last round."""
    model = _model(site, study)
    load(model, arrays)
    model.enter(study.training.rounds)
    model.eval()
    parts = [take(batch, rows) for rows in torch.split(torch.arange(len(batch)), ROWS)]
    losses = torch.cat([model.losses(model(part), part) for part in parts]).double().numpy()
    patient = batch.index.numpy()
    found: NDArray[np.float64] = np.bincount(patient, weights=losses) / np.maximum(np.bincount(patient), 1)
    return found


def _gates(site: Site, study: Study, cohort: Cohort, *, sigma: float | None) -> tuple[Gate, ...]:
    if study.privacy.mode != "patient" or sigma is None:
        return ()
    model, last, clip = _model(site, quiet(study)), study.training.rounds, study.privacy.clip
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):  # of adapters, whose rate is no setting
            module.p = 0.0
    model.enter(last)
    records = PatientRecords(rows=trained_rows(cohort, study.phase(last), study=study), patient=cohort.patient)
    some = records.one_each(np.arange(min(TRIED, len(records))), np.random.default_rng())
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    batch = as_batch(cohort, device=torch.device("cpu"))
    return (sensitivity(model, batch, some, clip=clip), noise(trained, sigma=sigma, clip=clip))


def _model(site: Site, study: Study) -> MultimodalModel:
    return build_model(study, weights={name: site.folder / where for name, where in site.weights.items()})
