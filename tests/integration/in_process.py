"""A federation in one process: the coordinator's rounds over the sites' own services, without Flower and sockets."""

from __future__ import annotations

from pathlib import Path

from fl_client.approval import approve_study
from fl_client.service import SiteService
from fl_client.training.actors import LocalPool
from fl_server.checkpoint import RunDirectory
from fl_server.comparison.fleet import OwnSites
from fl_server.launch import STUDY
from fl_server.rounds import run_study
from fl_server.simulation import simulated_site
from fl_shared.models.build import build_model, select
from fl_shared.results import Results
from fl_shared.study import Study
from fl_shared.wire import Arrays


def federate(study: Study, *, sites: Path, folder: Path, initial: Arrays | None = None) -> Results:
    """Run a study over the site folders; everything that is written lies in ``folder``.

    initial: of a study that judges a finished model, its arrays.
    """
    services = {}
    for name in study.sites:
        site = simulated_site(sites, folder / "sites", name)
        approve_study(site, study, file="study.toml")
        services[name] = SiteService(site, LocalPool(site))
    run = RunDirectory(folder / "run")
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / STUDY).write_text(study.model_dump_json(by_alias=True))
    start = select(build_model(study)) if initial is None else initial
    return run_study(study=study, fleet=OwnSites(services), run=run, initial=start, log=lambda _: None)
