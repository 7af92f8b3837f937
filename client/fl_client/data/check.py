"""`fl-client check`: what would a study find here? For the hospital in full, for outsiders without small counts."""

from __future__ import annotations

from fl_client.data.checking.render import render
from fl_client.data.checking.summary import summary
from fl_client.data.checking.wanted import wanted_by
from fl_client.data.cohort import CheckReport, Cohort
from fl_client.data.load import WORKERS, read_cohort
from fl_client.data.modalities import Progress
from fl_shared.site import Site
from fl_shared.study import Study

__all__ = ["check_site", "examine", "render", "summary"]


def check_site(site: Site, study: Study | None) -> CheckReport:
    """What `load_cohort` would find; without a study, everything that the site maps, on common grids."""
    return examine(site, study)[1]


def examine(
    site: Site, study: Study | None, *, workers: int = WORKERS, progress: Progress | None = None
) -> tuple[Cohort | None, CheckReport]:
    """As `check_site`, with the cohort (None when the data are rejected)."""
    return read_cohort(site, wanted_by(study, site)[0], workers=workers, progress=progress)
