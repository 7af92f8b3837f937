"""A federation in one process: the coordinator's rounds over the sites' own services, without Flower and sockets.

Cells run many at a time in Ray's workers, where Flower's simulation engine (a Ray of its own) cannot run. In its place
stands this fleet, which calls each site's service in turn; everything else is the code of the deployment: approval,
ledger, egress gate, rounds, report. The sites' state lies in the run's folder, never in a hospital's.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from fl_client.approval import approve
from fl_client.service import SiteService
from fl_client.training.actors import LocalPool
from fl_server.comparison.cohorts import SharedPool, SharedReader
from fl_server.fleet import Answer, Arrived, Missing, Question
from fl_server.launch import conduct, load_prepared
from fl_server.ledgers import FILE as LEDGERS
from fl_server.simulation import simulated_site
from fl_shared.results import Results
from fl_shared.site import load_site
from fl_shared.wire import Reply, Request, from_npy, to_npy

STATE = "simulation"  # of the sites, below a run's folder


class OwnSites:
    """Sites whose services are called one after the other."""

    def __init__(self, services: Mapping[str, SiteService]) -> None:
        self._services = services

    def hello(
        self, requests: Mapping[str, Request], *, deadline: float, arrived: Arrived
    ) -> Mapping[str, Answer | Missing]:
        """See `Fleet`."""
        return self.ask({site: (request, {}) for site, request in requests.items()}, deadline=deadline, arrived=arrived)

    def ask(
        self, questions: Mapping[str, Question], *, deadline: float, arrived: Arrived
    ) -> Mapping[str, Answer | Missing]:
        """See `Fleet`."""
        answers: dict[str, Answer | Missing] = {}
        for site, (request, arrays) in questions.items():
            sent = {name: to_npy(array) for name, array in arrays.items()}
            text, out = self._services[site].handle(request.model_dump_json(), sent)
            answers[site] = Reply.model_validate_json(text), {name: from_npy(data) for name, data in out.items()}
            arrived(site)
        return answers


def run_here(study_path: Path, *, folder: Path, sites_dir: Path, pools: Mapping[str, tuple[str, ...]]) -> Results:
    """Run (or continue) a prepared study in this process.

    Args:
        study_path: the study, as the sites approve it.
        folder: its prepared folder.
        sites_dir: folder of all sites.
        pools: site -> the sites whose patients it holds.

    Raises:
        ConsiliumError: as in a deployment.
    """
    services = {}
    for name in load_prepared(folder).sites:
        members = pools.get(name, ())
        site = simulated_site(sites_dir, folder / STATE, name, members=members)
        approve(site, study_path)
        held = tuple(load_site(sites_dir / member) for member in members)
        read = SharedPool(members=held, read=_reader()) if held else _reader()
        services[name] = SiteService(site, LocalPool(site, read=read))
    return conduct(folder, OwnSites(services), ledgers=folder / STATE / LEDGERS)


@cache  # one a process, for all cells that run in it
def _reader() -> SharedReader:
    return SharedReader()
