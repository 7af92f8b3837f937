"""A federation in one process: the coordinator's rounds over the sites' own services, without Flower and sockets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fl_client.approval import approve_study
from fl_client.service import SiteService
from fl_client.training.actors import LocalPool
from fl_server.checkpoint import RunDirectory
from fl_server.fleet import Answer, Arrived, Missing, Question
from fl_server.launch import STUDY
from fl_server.rounds import run_study
from fl_server.simulation import simulated_site
from fl_shared.models.build import build_model, select
from fl_shared.results import Results
from fl_shared.study import Study
from fl_shared.wire import Arrays, Reply, Request, from_npy, to_npy


class DirectFleet:
    """Sites whose services are called one after the other."""

    def __init__(self, services: Mapping[str, SiteService]) -> None:
        self._services = services

    def hello(
        self, requests: Mapping[str, Request], *, deadline: float, arrived: Arrived
    ) -> Mapping[str, Answer | Missing]:
        """See `Fleet`."""
        questions: dict[str, Question] = {site: (request, {}) for site, request in requests.items()}
        return self.ask(questions, deadline=deadline, arrived=arrived)

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
    return run_study(study=study, fleet=DirectFleet(services), run=run, initial=start, log=lambda _: None)
