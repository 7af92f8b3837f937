"""A model bundle at a hospital that need not have taken part: checked, built, and fitted to what the hospital maps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from fl_client.bedside.case import ready
from fl_client.data.cohort import CheckReport, Cohort
from fl_client.data.load import Wanted, read_cohort
from fl_client.data.modalities import Progress
from fl_shared.errors import ConsiliumError, ExitCode, Fault, nearest
from fl_shared.model_bundle import ANEW, MODEL, ModelBundle, read_bundle
from fl_shared.models.build import build_model, load
from fl_shared.models.model import MultimodalModel
from fl_shared.site import Site


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A bundle, its model in evaluation mode, and the modalities that this site's ``site.toml`` does not map."""

    folder: Path
    bundle: ModelBundle
    model: MultimodalModel
    unmapped: tuple[str, ...]


def open_model(folder: Path, site: Site, *, trust: Path | None) -> Opened:
    """Read a bundle and build its model for a site.

    A modality that the site does not map is missing in all its patients, as it may be in any; but one at least must be
    mapped, and none as another kind.

    Raises:
        ConsiliumError: the bundle does not verify (exit code 19) or the site lacks what it needs (11).
    """
    bundle = _in_order(read_bundle(folder, trust=trust))
    unmapped = _unmapped(bundle, site)
    model = build_model(bundle.study, weights={name: site.folder / where for name, where in site.weights.items()})
    wanted = set(model.state_dict())
    try:
        if lacking := sorted(wanted - set(bundle.arrays)):
            raise ValueError(f"{len(lacking)} arrays are missing: {', '.join(lacking[:5])}")
        load(model, bundle.arrays)
    except ValueError as error:
        fault = Fault(file=str(folder / MODEL), key="(file)", problem=str(error), mend=ANEW)
        message = f"{folder}: its arrays are not those of its study's model"
        raise ConsiliumError(message, code=ExitCode.CHECKPOINT, faults=[fault]) from error
    return Opened(folder=folder, bundle=bundle, model=ready(model), unmapped=unmapped)


def _in_order(bundle: ModelBundle) -> ModelBundle:
    """With the tasks in the order of the results: the canonical text of the study has them by name."""
    tasks = bundle.study.tasks
    order = [*(task for task in bundle.results.study.tasks if task in tasks), *tasks]
    return replace(bundle, study=bundle.study.model_copy(update={"tasks": {task: tasks[task] for task in order}}))


def _unmapped(bundle: ModelBundle, site: Site) -> tuple[str, ...]:
    plans = bundle.study.modalities
    faults = [
        Fault(
            file=str(site.folder / "site.toml"),
            key=f"modalities.{name}.kind",
            value=site.modalities[name].kind,
            problem=f"the model reads '{plan.kind}'",
            mend="Map what the model means, or remove this.",
        )
        for name, plan in plans.items()
        if name in site.modalities and site.modalities[name].kind != plan.kind
    ]
    absent = tuple(name for name in plans if name not in site.modalities)
    if len(absent) == len(plans):
        faults += [
            Fault(
                file=str(site.folder / "site.toml"),
                key=f"modalities.{name}",
                problem=f"missing: the model reads it, a '{plan.kind}'",
                mend=f"Add [modalities.{name}]. " + (nearest(name, site.modalities) if site.modalities else ""),
            )
            for name, plan in plans.items()
        ]
    if faults:
        message = f"{site.name} cannot give this model what it reads: {len(faults)} fault(s)"
        raise ConsiliumError(message, code=ExitCode.SITE, faults=faults)
    return absent


def read_patients(
    site: Site, opened: Opened, patients: frozenset[str] | None, *, progress: Progress | None = None
) -> tuple[Cohort | None, CheckReport]:
    """The records of some patients (all, with None); no outcome is read, so that none need be known.

    No cohort where none of the records has a modality.

    Raises:
        ConsiliumError: the site's data are rejected (exit code 12).
    """
    study = opened.bundle.study
    wanted = Wanted(modalities=study.modalities, tasks={}, evaluation=study.evaluation, patients=patients)
    cohort, report = read_cohort(site, wanted, progress=progress)
    nothing_usable = report.flow.get("usable") == 0 and len(report.rejects) == 1
    if cohort is None and not nothing_usable:
        message = f"{site.name}: the data are rejected, {len(report.rejects)} fault(s)"
        raise ConsiliumError(message, code=ExitCode.DATA, faults=report.rejects)
    return cohort, report
