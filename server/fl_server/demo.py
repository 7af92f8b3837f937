"""The whole way on one machine, with real processes: coordinator, one ``fl-client`` a site, run, judgement, report."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from fl_client.approval import approve
from fl_client.keys import ensure_key
from fl_client.training.cluster import shared_ray
from fl_server import superlink
from fl_server.checkpoint import RunDirectory
from fl_server.launch import REPORT, prepare
from fl_server.report.page import write_report
from fl_server.watch import submit_and_wait
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.processes import end_with_parent, stop
from fl_shared.results import Results
from fl_shared.site import load_site
from fl_shared.study import Study, load_study
from fl_sites.importers.ptb_xl import import_ptb_xl
from fl_sites.study_file import write_model
from fl_sites.synthetic.cohort import synthesize

JOIN_SECONDS, STOP_SECONDS = 180.0, 30.0
EPSILON = 8.0
SYNTHETIC_SITES, SYNTHETIC_PATIENTS = ["aachen", "bern", "chengdu", "nanjing"], 150


Outcome = tuple[Results, Path]
"""Results, and the folder of the run."""


def demonstrate(data: Path | None, *, out: Path, console: Console) -> list[Outcome]:
    """Make the sites (from an unmodified PTB-XL download, or synthetic ones) and run their study twice.

    Once without privacy and once with patient-level epsilon 8, to show what privacy costs cohorts of this size.

    Args:
        data: folder of the download; None for the synthetic cohort.
        out: everything goes here; an earlier demonstration in it is replaced.
        console: where progress is told.

    Raises:
        ConsiliumError: the download is incomplete, ``out`` holds something else, or what ended the run.
    """
    out = out.resolve()
    _clear(out)
    sites = out / "sites"
    if data is not None:
        console.print(f"importing {data}")
        return run_demo(_pair(import_ptb_xl(data, sites).study), sites_dir=sites, out=out, console=console)
    console.print("synthesising four hospitals (synthetic data, three train, one judges)")
    made = synthesize(sites, sites=SYNTHETIC_SITES, patients=SYNTHETIC_PATIENTS, seed=0)
    outcomes = run_demo(_pair(made.study), sites_dir=sites, out=out, console=console)
    return [(_with_oracle(results, folder, made.truth), folder) for results, folder in outcomes]


def _pair(path: Path) -> list[Path]:
    """The study without privacy, and with it; both with learning curves."""
    body = load_study(path).model_dump(mode="json", by_alias=True, exclude_none=True)
    body["evaluation"] |= {"every": 1}
    variants = {"no_privacy": {"mode": "none"}, "epsilon8": {"mode": "patient", "epsilon": EPSILON}}
    paths = []
    for suffix, privacy in variants.items():
        name = f"{body['name']}_{suffix}"
        paths.append(path.with_name(f"{name}.toml"))
        study = Study.model_validate(body | {"name": name, "privacy": privacy})
        write_model(paths[-1], study, header="Written by the demonstration.")
    return paths


def _with_oracle(results: Results, folder: Path, truth: Path) -> Results:
    """Say beside the results what no model can exceed: the AUROC of the synthetic cohort's true risk."""
    external = [name for name, site in results.sites.items() if site.role == "external"]
    best = [
        f"Best possible AUROC at {row['site']}, {' '.join(filter(None, [row['task'], row['label']]))}: "
        f"{row['auroc']:.3f} (the true risk of the synthetic patients, which no model sees)."
        for row in json.loads((truth / "oracle.json").read_text(encoding="utf-8"))["oracle"]
        if row["site"] in external
        and results.study.types.get(row["task"]) in ("binary", "multilabel")  # of a time, it is the event in a year
        and row["patients"] == "all"
        and row["auroc"] is not None
    ]
    told = results.model_copy(update={"notes": (*results.notes, *best)})
    RunDirectory(folder).write_results(told)
    write_report(told, folder / REPORT)
    return told


def _clear(out: Path) -> None:
    """Empty the folder of an earlier demonstration; refuse any other folder."""
    marker = out / ".consilium-demo"
    if out.exists() and any(out.iterdir()):
        if not marker.exists():
            raise ConsiliumError(f"{out} is not empty and no demonstration. Choose another --out.", code=ExitCode.USAGE)
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()


def run_demo(studies: Sequence[Path], *, sites_dir: Path, out: Path, console: Console) -> list[Outcome]:
    """Run studies of the same sites, one after another, over real processes on this machine.

    Args:
        studies: every site that they name is a folder of ``sites_dir``. They are approved at each of them.
        sites_dir: site folders.
        out: ``coordinator/`` and ``runs/`` go here.
        console: where progress is told (stderr).
    """
    names = sorted(load_study(studies[0]).sites)
    home = superlink.Home(path=out / "coordinator")
    with contextlib.ExitStack() as stack:
        console.print("starting SuperLink and a Ray that the sites of this demonstration share")
        stack.enter_context(superlink.running(home))
        ray_environment = stack.enter_context(shared_ray(out / "ray", cpus=len(names)))
        clients = {}
        for name in names:
            site = load_site(sites_dir / name)
            for study in studies:
                approve(site, study)
            superlink.register(home, site=name, public_key=ensure_key(site)[1])
            clients[name] = stack.enter_context(
                client(name, sites_dir=sites_dir, home=home, extra=ray_environment, log=out / "logs")
            )
        for process in clients.values():  # all at once on leaving; one after another, their graces would add up
            stack.callback(process.terminate)
        folders = [prepare(study, runs=out / "runs") for study in studies]
        await_online(home, clients, console=console)
        return [
            (submit_and_wait(home, study, folder, console=console), folder)
            for study, folder in zip(studies, folders, strict=True)
        ]


@contextlib.contextmanager
def client(
    name: str, *, sites_dir: Path, home: superlink.Home, extra: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """One ``fl-client --site NAME`` process; ended on leaving."""
    log.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "fl_client.cli", "--site", name, "--sites-dir", str(sites_dir),
               "--superlink", home.address(), "--root-certificates", str(home.ca)]  # fmt: skip
    if address := extra.get("CONSILIUM_RAY_ADDRESS"):
        command += ["--ray-address", address]
    with (log / f"{name}.log").open("ab") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | extra,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            preexec_fn=end_with_parent,
        )
    try:
        yield process
    finally:
        stop(process, grace=STOP_SECONDS)


def await_online(home: superlink.Home, clients: Mapping[str, subprocess.Popen[bytes]], *, console: Console) -> None:
    """Wait until every site is connected.

    Raises:
        ConsiliumError: a client ended, or did not connect in time; its log is named.
    """
    end = time.monotonic() + JOIN_SECONDS
    with console.status("sites join") as status:
        while missing := _offline(home, list(clients)):
            ended = [n for n in missing if clients[n].poll() is not None]
            if ended or time.monotonic() > end:
                raise ConsiliumError(
                    f"site(s) {', '.join(ended or missing)} did not join. {_last_words(home, (ended or missing)[0])}",
                    code=ExitCode.UNREACHABLE,
                )
            status.update(f"waiting for {', '.join(missing)}")
            time.sleep(0.5)


def _last_words(home: superlink.Home, name: str) -> str:
    log = home.path.parent / "logs" / f"{name}.log"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return f"The log {log} ends: {lines[-1] if lines else '(empty)'}"


def _offline(home: superlink.Home, names: Sequence[str]) -> list[str]:
    state = superlink.nodes(home)
    return [name for name in names if state.get(name) != "online"]
