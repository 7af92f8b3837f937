"""The files of a design's studies, to be approved by the sites and run."""

from __future__ import annotations

from pathlib import Path

from fl_server.designs.derive import DesignPlan
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.study import load_study
from fl_shared.written import write_model


def write_studies(plan: DesignPlan, folder: Path) -> dict[str, Path]:
    """Write every study of a design into ``folder`` (arm -> file), to be approved and run; files of it are replaced.

    Raises:
        ConsiliumError: a file there is of another study (2).
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {derived.arm: folder / f"{derived.study.name}.toml" for derived in plan.studies}
    for derived in plan.studies:
        path = files[derived.arm]
        if path.exists() and load_study(path).identity != derived.study.identity:
            raise ConsiliumError(f"{path} is another study. Choose another folder or --runs.", code=ExitCode.USAGE)
        header = f"Design '{plan.design}' of study '{plan.parent.name}' ({plan.parent.identity}): {derived.arm}."
        write_model(path, derived.study, header=header)
    return files


def only_simulated(plan: DesignPlan) -> None:
    """Refuse what real hospitals cannot do.

    Raises:
        ConsiliumError: USAGE, a study pools patients.
    """
    for derived in plan.studies:
        for name, members in derived.pools.items():
            raise ConsiliumError(
                f"design '{plan.design}' cannot be run: study '{derived.study.name}' pools the patients of "
                f"{', '.join(members)} under '{name}', and patients leave no hospital. It can be simulated where all "
                "data may lie on one machine: fl-server simulate STUDY --design sides",
                code=ExitCode.USAGE,
            )
