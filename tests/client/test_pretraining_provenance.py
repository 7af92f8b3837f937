"""From a pretraining at this site to the gate: what the bundle says, and what the site's own records make of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fl_client.payment import site_ledger
from fl_client.pretraining import Pretraining, pretrain
from fl_client.privacy.provenance import Provenance, ProvenanceError
from fl_shared.bundle import read_bundle
from fl_shared.site import Site, load_site
from fl_shared.study import Provenance as Said
from fl_shared.study import Study, load_study
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.plans import QUICK


@pytest.fixture
def site(tmp_path: Path) -> Site:
    synthesize(tmp_path / "sites", sites=["aachen", "bern"], patients=24, seed=1, modalities=QUICK)
    return load_site(tmp_path / "sites" / "aachen").model_copy(update={"state": tmp_path / "state"})


def study(site: Site, *, mode: str, weights: dict[str, tuple[str, Said]] | None = None) -> Study:
    """The site's study; weights: modality -> digest and provenance of a bundle of that name."""
    body: dict[str, Any] = load_study(site.folder.parent / "study.toml").model_dump(mode="json", by_alias=True)
    body["privacy"] = {"mode": mode} | ({"epsilon": 8.0} if mode == "patient" else {})
    del body["training"]["phases"]
    body["training"] |= {"steps": 2, "batch": 8}
    for name, (sha256, said) in (weights or {}).items():
        body["modalities"][name] |= {"weights": name, "weights_sha256": sha256, "provenance": said}
    return Study.model_validate(body)


def with_weights(site: Site, **folders: Path) -> Site:
    return site.model_copy(update={"weights": folders})


def plan(*modalities: str, provenance: Said = "public") -> Pretraining:
    return Pretraining(modalities=modalities, objective="supervised", rounds=2, provenance=provenance)


def test_paid_here_it_may_start_a_study(site: Site, tmp_path: Path) -> None:
    ((folder, sha256),) = pretrain(site, study(site, mode="patient"), plan("ehr"), out=tmp_path / "out").values()
    here = with_weights(site, ehr=folder)
    gate = Provenance(here, site_ledger(here))
    asked = study(here, mode="patient", weights={"ehr": (sha256, "dp")})
    assert gate.check(asked)
    (part,) = (part for part in gate.table(asked) if part.what == "encoders.ehr")
    assert (part.provenance, part.rows) == ("dp", (1, 3))


def test_without_privacy_it_may_not_whatever_it_is_called(site: Site, tmp_path: Path) -> None:
    ((folder, sha256),) = pretrain(site, study(site, mode="none"), plan("ehr"), out=tmp_path / "out").values()
    bundle = read_bundle(folder)
    assert bundle is not None and bundle.provenance == "public"
    here = with_weights(site, ehr=folder)
    with pytest.raises(ProvenanceError, match=r"encoders\.ehr: said to be 'public'.* trained on this cohort") as caught:
        Provenance(here, site_ledger(here)).check(study(here, mode="patient", weights={"ehr": (sha256, "public")}))
    assert len(caught.value.faults) == 1
    assert bundle.study[:12] in str(caught.value.faults[0])


def test_what_it_started_from_goes_with_it(site: Site, tmp_path: Path) -> None:
    """Every encoder of a pretraining may have learned through the others: all their origins count."""
    ((first, sha256),) = pretrain(site, study(site, mode="none"), plan("ecg"), out=tmp_path / "first").values()
    here = with_weights(site, ecg=first)
    warm = study(here, mode="none", weights={"ecg": (sha256, "public")})
    found = pretrain(here, warm, plan("ecg", "ehr"), out=tmp_path / "second")
    earlier = read_bundle(first)
    assert earlier is not None
    for folder, _ in found.values():
        bundle = read_bundle(folder)
        assert bundle is not None and [origin.study for origin in bundle.origins] == [earlier.study, bundle.study]
    here = with_weights(site, ehr=found["ehr"][0])
    far = site.model_copy(update={"name": "bern", "state": tmp_path / "bern", "weights": here.weights})
    asked = study(far, mode="patient", weights={"ehr": (found["ehr"][1], "public")})
    assert Provenance(far, site_ledger(far)).check(asked)  # no patient of bern's saw either
    with pytest.raises(ProvenanceError) as caught:
        Provenance(here, site_ledger(here)).check(asked)
    assert len(caught.value.faults) == 2
