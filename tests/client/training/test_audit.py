"""An audit of the site's own training: planted faults are found, a sound mechanism passes, memorising shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl_client.auditing import gates
from fl_client.auditing.page import summary, write_page
from fl_client.auditing.run import audit
from fl_client.privacy import mechanism
from fl_client.training import gradients
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import Site

CHOSEN = {"rounds": 2}


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site.model_validate({"schema": 1, "name": "a", "state": "state", "privacy": {"min_patients": 2}})
    made._folder = tmp_path
    return made


def test_a_sound_mechanism_passes_and_the_page_says_so(
    site: Site, make_study: Any, make_cohort: Any, tmp_path: Path
) -> None:
    study = make_study(mode="patient", **CHOSEN)
    rounds: list[int] = []
    found = audit(site, study, make_cohort("a"), done=rounds.append)
    assert rounds == [1, 2]
    assert [gate.holds for gate in found.gates] == [True, True] and found.holds
    assert 0.5 < found.gates[0].measured <= 1 + 1e-5  # a patient was clipped: the gate looked at something
    assert found.claimed == pytest.approx(8.0, abs=0.01) and found.floor <= found.claimed
    assert not (site.state_dir / "ledger.jsonl").exists() and not (site.state_dir / "local").exists()
    told = summary(found, site=site, study=study)
    json.dumps(told)
    write_page(told, tmp_path / "audit.html")
    page = (tmp_path / "audit.html").read_text()
    assert "holds" in page and "FAILS" not in page and "://" not in page


def test_missing_clipping_is_found(
    site: Site, make_study: Any, make_cohort: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fl_client.privacy.clipping.MARGIN", -0.9)  # ten times too far
    found = audit(site, make_study(mode="patient", **CHOSEN), make_cohort("a"))
    assert not found.gates[0].holds and not found.holds


def test_halved_noise_is_found(site: Site, make_study: Any, make_cohort: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def halved(sums: Any, *, sigma: float, clip: float, world: int = 1) -> Any:
        return mechanism.add_noise(sums, sigma=sigma / 2, clip=clip, world=world)

    for place in (gradients, gates):
        monkeypatch.setattr(place, "add_noise", halved)
    found = audit(site, make_study(mode="patient", **CHOSEN), make_cohort("a"))
    assert found.gates[0].holds and not found.gates[1].holds and not found.holds


def test_training_that_memorises_gives_its_patients_away(
    site: Site, make_study: Any, make_cohort: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeded = np.random.default_rng(1)
    monkeypatch.setattr("fl_client.auditing.run.np.random.default_rng", lambda *_: seeded)
    study = make_study(dropout=0.0, steps=150, learning_rate=0.01, batch=12, **CHOSEN)
    found = audit(site, study, make_cohort("a"))
    assert found.membership_auc > 0.75 and found.claimed is None and found.gates == ()


def test_an_external_site_and_a_handful_of_patients_have_nothing_to_audit(
    site: Site, make_study: Any, make_cohort: Any
) -> None:
    with pytest.raises(ConsiliumError) as refused:
        audit(site.model_copy(update={"name": "z"}), make_study(), make_cohort("z"))
    assert refused.value.code == ExitCode.NOT_APPROVED
    cohort = make_cohort("a")
    few = type(cohort)(**{**vars(cohort), "held_out": np.arange(len(cohort.held_out)) >= 5})
    with pytest.raises(ConsiliumError, match="an audit needs 20") as refused:
        audit(site, make_study(), few)
    assert refused.value.code == ExitCode.DATA
