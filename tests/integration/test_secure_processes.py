"""Secure aggregation over real processes and sockets, with a site killed between its shares and its update."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from federation import QUIET, Federation, until
from safetensors.numpy import load_file

from fl_client.keys import ensure_key
from fl_server import demo, superlink
from fl_shared.site import load_site
from fl_shared.study import load_study
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.plans import QUICK

pytestmark = pytest.mark.integration
PATIENTS = {"alpha": 48, "beta": 40, "delta": 44, "gamma": 30}


def complete(hospitals: Federation) -> None:
    """Four hospitals with running clients, whatever earlier tests have ended."""
    if not (hospitals.sites / "delta").exists():
        more = hospitals.root / "more"
        synthesize(more, sites=["delta"], patients=60, seed=2, modalities=QUICK)
        shutil.copytree(more / "delta", hospitals.sites / "delta")
        superlink.register(hospitals.home, site="delta", public_key=ensure_key(load_site(hospitals.sites / "delta"))[1])
    for name in PATIENTS:
        if name not in hospitals.clients or hospitals.clients[name].poll() is not None:
            hospitals.start(name)
    demo.await_online(hospitals.home, hospitals.clients, console=QUIET)


def test_a_killed_site_is_left_out_of_the_sum(hospitals: Federation) -> None:
    complete(hospitals)
    path = hospitals.study(
        "masked",
        sites={name: {"role": "train", "patients": n} for name, n in PATIENTS.items()},
        privacy={"mode": "none", "epsilon": None, "aggregation": "secure"},
        training={"rounds": 2, "steps": 10, "batch": 8, "encoders": "shared"},
        rounds={"quorum": 3, "deadline": 60.0, "max_norm": None},
    )

    def strike(folder: Path) -> None:
        events = folder / "events.jsonl"
        marks = '"kind":"phase"', '"round":2', '"status":"train"'
        until(
            lambda: events.exists() and any(all(m in line for m in marks) for line in events.read_text().splitlines()),
            seconds=240, what="round 2 never came to its updates",
        )  # fmt: skip
        hospitals.kill("beta")

    results, folder = hospitals.run(path, meanwhile=strike)
    assert [r.outcome for r in results.rounds] == ["committed"] * 3
    assert {s.status for s in results.rounds[1].sites.values()} == {"accepted"}
    second = results.rounds[2].sites
    assert second["beta"].status == "absent" and {s.status for n, s in second.items() if n != "beta"} == {"accepted"}
    assert any("fewer than a third" in sentence for sentence in results.privacy.trust)

    identity = load_study(path).identity
    for number, sites in ((1, sorted(PATIENTS)), (2, ["alpha", "delta", "gamma"])):
        own = {site: outbox(hospitals, site, identity, number) for site in sites}
        model = load_file(folder / f"rounds/round_{number:04d}/model.safetensors")
        total = sum(PATIENTS[site] for site in sites)
        for name in own["alpha"]:
            mean = sum(PATIENTS[site] / total * own[site][name].astype(np.float64) for site in sites)
            np.testing.assert_allclose(model[name], mean, rtol=2e-7, atol=1e-9)


def outbox(hospitals: Federation, site: str, identity: str, number: int) -> dict[str, np.ndarray]:
    """The update that a site computed in a round, as it lies there."""
    [file] = (hospitals.sites / site / "state/outbox" / identity).glob(f"round_{number}-*.safetensors")
    return load_file(file)
