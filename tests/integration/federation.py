"""A real federation for tests: SuperLink, a Ray, and one ``fl-client`` process a site, all ended by their handles."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from fl_client.approval import approve
from fl_client.keys import ensure_key
from fl_client.training.cluster import shared_ray
from fl_server import demo, superlink
from fl_server.launch import prepare
from fl_server.watch import submit_and_wait
from fl_shared.models.systems import opened
from fl_shared.results import Results
from fl_shared.site import load_site
from fl_shared.study import Study, load_study
from fl_sites.study_file import write_model
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.plans import QUICK

QUIET = Console(quiet=True)


@dataclass
class Federation:
    """Three synthetic hospitals with running clients."""

    root: Path
    home: superlink.Home
    ray: dict[str, str]
    stack: contextlib.ExitStack
    clients: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def sites(self) -> Path:
        return self.root / "sites"

    def start(self, name: str) -> None:
        context = demo.client(name, sites_dir=self.sites, home=self.home, extra=self.ray, log=self.root / "logs")
        self.clients[name] = self.stack.enter_context(context)

    def kill(self, name: str) -> None:
        """SIGKILL the client; its Flower processes die with it."""
        self.clients[name].send_signal(signal.SIGKILL)
        self.clients[name].wait()

    def study(self, name: str, **sections: dict[str, object]) -> Path:
        """A variation of the cohort's study, approved at every site; ``sections`` overlay its tables."""
        body = opened(load_study(self.sites / "study.toml").model_dump(mode="json", by_alias=True, exclude_none=True))
        body["name"] = name
        for section, values in sections.items():
            body[section] = {**body.get(section, {}), **values}
            body[section] = {key: value for key, value in body[section].items() if value is not None}
        path = self.root / f"{name}.toml"
        write_model(path, Study.model_validate(body), header="test")
        for site in body["sites"]:
            approve(load_site(self.sites / site), path)
        return path

    def run(self, study: Path, *, meanwhile: Callable[[Path], None] | None = None) -> tuple[Results, Path]:
        folder = prepare(study, runs=self.root / "runs")
        with contextlib.ExitStack() as stack:
            if meanwhile is not None:
                import threading

                worker = threading.Thread(target=meanwhile, args=(folder,))
                worker.start()
                stack.callback(worker.join)
            return submit_and_wait(self.home, study, folder, console=QUIET), folder


@contextlib.contextmanager
def federation(root: Path) -> Iterator[Federation]:
    """Start everything and wait until the sites are connected."""
    synthesize(root / "sites", sites=["alpha", "beta", "gamma"], patients=60, seed=1, modalities=QUICK)
    home = superlink.Home(path=root / "coordinator")
    with contextlib.ExitStack() as stack:
        stack.enter_context(superlink.running(home))
        ray = stack.enter_context(shared_ray(root / "ray", cpus=4))
        made = Federation(root=root, home=home, ray=ray, stack=stack)
        for name in ("alpha", "beta", "gamma"):
            superlink.register(home, site=name, public_key=ensure_key(load_site(made.sites / name))[1])
            made.start(name)
        demo.await_online(home, made.clients, console=QUIET)
        yield made


def until(condition: Callable[[], bool], *, seconds: float, what: str) -> None:
    """Wait for a condition, with a deadline."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.2)
