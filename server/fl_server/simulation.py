"""The same study through Flower's simulation engine: every site's own service, in-process, no sockets.

The engine already runs inside Ray, so trainers run in its workers (never a nested Ray). Everything else is the code
of the deployment: approval, ledger, egress gate, rounds, report. Each site's state lies in the run's folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fl_client.app import make_app
from fl_client.approval import approve
from fl_client.data.pooled import PooledReader, pooled_site
from fl_client.secure_session import Sessions
from fl_client.service import SiteService
from fl_client.training.actors import LocalPool
from fl_server.fleet import Answer, Arrived, Missing
from fl_server.grid import GridFleet
from fl_server.launch import conduct, load_prepared
from fl_server.ledgers import FILE as LEDGERS
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.results import Results
from fl_shared.site import Site, load_site
from fl_shared.wire import Request

NAMING_SECONDS = 300.0  # the engine's workers start Python, torch and Flower


@dataclass(frozen=True, kw_only=True)
class SimulatedSites:
    """The exchange of every virtual node: partition i is the i-th site."""

    sites_dir: str
    state_dir: str
    names: tuple[str, ...]
    pools: Mapping[str, tuple[str, ...]]

    def __call__(self, context: Context, message: str, arrays: Mapping[str, bytes]) -> tuple[str, Mapping[str, bytes]]:
        """Answer as the site of this partition."""
        name = self.names[int(context.node_config["partition-id"])]
        return _service(self.sites_dir, self.state_dir, name, self.pools.get(name, ())).handle(message, arrays)


@cache  # one service a site in each worker; what it must remember lies on disk
def _service(sites_dir: str, state_dir: str, name: str, members: tuple[str, ...]) -> SiteService:
    site = simulated_site(Path(sites_dir), Path(state_dir), name, members=members)
    held = tuple(simulated_site(Path(sites_dir), Path(state_dir), member) for member in members)
    pool = LocalPool(site, read=PooledReader(members=held) if held else None)
    # a site's messages may reach several workers, so what secure aggregation keeps in memory must lie on disk here
    return SiteService(site, pool, sessions=Sessions(site.state_dir / "sessions"))


def simulated_site(sites_dir: Path, state_dir: Path, name: str, *, members: tuple[str, ...] = ()) -> Site:
    """A site whose state lies in the run's folder: a simulation touches nothing of a hospital's but its cache.

    ``members`` are the sites whose patients it holds, where it is none that there is.
    """
    if members:
        site = pooled_site(name, [load_site(sites_dir / member) for member in members])
        return site.model_copy(update={"state": (state_dir / name).resolve()})
    site = load_site(sites_dir / name)
    cache = site.cache.model_copy(update={"folder": site.cache_dir})
    return site.model_copy(update={"state": (state_dir / name).resolve(), "cache": cache})


def simulate(
    study_path: Path, *, folder: Path, sites_dir: Path, pools: Mapping[str, tuple[str, ...]] | None = None
) -> Results:
    """Run a prepared study in the simulation engine.

    Args:
        study_path: the study.
        folder: its prepared folder.
        sites_dir: folder of all sites.
        pools: site -> the sites whose patients it holds: what only a simulation can do.

    Raises:
        ConsiliumError: as in a deployment.
    """
    from flwr.simulation import run_simulation

    names, pools = tuple(sorted(load_prepared(folder).sites)), pools or {}
    state = folder / "simulation"
    for name in names:
        approve(simulated_site(sites_dir, state, name, members=pools.get(name, ())), study_path)
    sites = SimulatedSites(sites_dir=str(sites_dir.resolve()), state_dir=str(state.resolve()), names=names, pools=pools)
    done: list[Results | ConsiliumError] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, _context: Context) -> None:
        try:
            done.append(conduct(folder, _NamedFleet(grid, names), ledgers=state / LEDGERS))
        except ConsiliumError as error:
            done.append(error)

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    run_simulation(
        server_app=server, client_app=make_app(sites), num_supernodes=len(names),
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )  # fmt: skip
    if not done:
        raise ConsiliumError("the simulation engine ended without a result; see its log above", code=ExitCode.FAILED)
    if isinstance(done[0], ConsiliumError):
        raise done[0]
    return done[0]


class _NamedFleet(GridFleet):
    """Virtual nodes have no keys: who is who comes from their first answer."""

    def __init__(self, grid: Grid, sites: tuple[str, ...]) -> None:
        super().__init__(grid, names={})
        self._sites = sites

    def hello(
        self, requests: Mapping[str, Request], *, deadline: float, arrived: Arrived
    ) -> Mapping[str, Answer | Missing]:
        """Learn the names, then as in `GridFleet`."""
        nodes = {str(node): node for node in self._grid.get_node_ids()}
        self._names = {node: str(node) for node in nodes.values()}
        anyone = next(iter(requests.values())).model_copy(update={"ledger": None})
        answers = super().hello(dict.fromkeys(nodes, anyone), deadline=NAMING_SECONDS, arrived=lambda _: None)
        self._names = {nodes[n]: a[0].site for n, a in answers.items() if not isinstance(a, Missing)}
        return super().hello(requests, deadline=deadline, arrived=arrived)
