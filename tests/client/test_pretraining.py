"""Encoder bundles: pretrained at a site, resumed, paid for under privacy, and started from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_client.data.load import load_cohort
from fl_client.pretraining import Pretraining, pretrain, pretraining_study
from fl_client.service import SiteService
from fl_client.training.loop import Trainer
from fl_shared.bundle import read_bundle
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model, select
from fl_shared.site import Site, load_site
from fl_shared.study import Study, load_study
from fl_shared.wire import digest
from fl_sites.synthetic.cohort import synthesize
from fl_sites.synthetic.plans import QUICK

Make = Callable[..., Study]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("pretraining") / "sites"
    synthesize(out, sites=["aachen", "bern"], patients=24, seed=1, modalities=(*QUICK, "series"))
    return out


@pytest.fixture
def site(written: Path, tmp_path: Path) -> Site:
    return load_site(written / "aachen").model_copy(update={"state": tmp_path / "state"})


@pytest.fixture
def make_study(written: Path) -> Make:
    def make(*, mode: str = "none", **training: Any) -> Study:
        body = load_study(written / "study.toml").model_dump(mode="json", by_alias=True)
        body["privacy"] = {"mode": mode} | ({"epsilon": 8.0} if mode == "patient" else {})
        del body["training"]["phases"]
        body["training"] |= {"steps": 3, "batch": 8, **training}
        return Study.model_validate(body)

    return make


def plan(*modalities: str, objective: str = "supervised", rounds: int = 2, provenance: str = "local") -> Pretraining:
    return Pretraining(modalities=modalities, objective=objective, rounds=rounds, provenance=provenance)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("objective", "modalities"),
    [("supervised", ("text", "ehr")), ("masked", ("ecg", "series")), ("contrastive", ("ecg", "ehr"))],
)
def test_a_bundle_holds_the_trained_encoder(
    site: Site, make_study: Make, tmp_path: Path, objective: str, modalities: tuple[str, ...]
) -> None:
    study = make_study()
    found = pretrain(site, study, plan(*modalities, objective=objective), out=tmp_path / "out")
    assert set(found) == set(modalities)
    start = select(build_model(study))
    for name, (folder, sha) in found.items():
        bundle = read_bundle(folder)
        assert bundle is not None
        assert (bundle.provenance, bundle.objective, bundle.cohort, bundle.synthetic) == (
            "local", objective, "aachen", True,
        )  # fmt: skip
        arrays = {f"encoders.{name}.{key}": array for key, array in load_file(folder / "model.safetensors").items()}
        assert set(arrays) == {key for key in start if key.startswith(f"encoders.{name}.")}
        assert digest(arrays) != digest({key: start[key] for key in arrays})
        body = study.model_dump(mode="json", by_alias=True)
        body["modalities"][name] |= {"weights": name, "weights_sha256": sha}
        warm = select(build_model(Study.model_validate(body), weights={name: folder}))
        assert all(np.array_equal(warm[key], array) for key, array in arrays.items())


def test_masked_modelling_learns(site: Site, make_study: Make) -> None:
    made = pretraining_study(make_study(steps=25, batch=16), "aachen", plan("ecg", objective="masked"))
    trainer = Trainer(study=made, site=site, cohort=load_cohort(site, made)[0])
    model, batch = trainer._model.eval(), trainer._batch
    before = model.losses(model(batch), batch).mean().item()
    trainer.train(round=1, base=select(model, made.is_shared), sigma=None)
    model.eval()
    assert model.losses(model(batch), batch).mean().item() < 0.8 * before


def test_a_stopped_pretraining_goes_on_with_the_same_bytes(
    site: Site, make_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study()
    whole = pretrain(site.model_copy(update={"state": tmp_path / "other"}), study, plan("ehr"), out=tmp_path / "whole")

    def stop(number: int) -> None:
        if number == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(site, study, plan("ehr"), out=tmp_path / "again", done=stop)
    computed: list[int] = []
    original = SiteService._compute
    monkeypatch.setattr(
        SiteService, "_compute", lambda self, r, *a: (computed.append(r.round), original(self, r, *a))[1]
    )
    again = pretrain(site, study, plan("ehr"), out=tmp_path / "again")
    assert computed == [2]
    assert again["ehr"][1] == whole["ehr"][1]


def test_under_privacy_it_is_paid_and_the_bundle_says_so(site: Site, make_study: Make, tmp_path: Path) -> None:
    found = pretrain(site, make_study(mode="patient"), plan("ehr", provenance="public"), out=tmp_path / "out")
    bundle = read_bundle(found["ehr"][0])
    assert bundle is not None and bundle.provenance == "dp" and bundle.epsilon is not None
    rows = [json.loads(line) for line in (site.state_dir / "ledger.jsonl").read_text().splitlines()]
    assert sum(row["state"] == "COMMITTED" for row in rows) == 2
    assert 0 < bundle.epsilon <= 8.0


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        (plan("mri"), "no modality mri"),
        (plan("ecg", objective="contrastive"), "at least two"),
        (plan("ehr", objective="masked"), "for series"),
        (plan("ecg", objective="segmentation"), "no task for 'segmentation'"),
    ],
)
def test_what_cannot_be_pretrained_says_why(make_study: Make, chosen: Pretraining, problem: str) -> None:
    with pytest.raises(ConsiliumError, match=problem) as caught:
        pretraining_study(make_study(), "aachen", chosen)
    assert caught.value.code == ExitCode.STUDY


def test_a_study_knows_where_its_weights_come_from(site: Site, make_study: Make, tmp_path: Path) -> None:
    (folder, sha) = pretrain(site, make_study(), plan("ehr"), out=tmp_path / "out")["ehr"]

    def study(mode: str, provenance: str | None) -> Study:
        body = make_study(mode=mode).model_dump(mode="json", by_alias=True)
        body["modalities"]["ehr"] |= {"weights": "w", "weights_sha256": sha, "provenance": provenance}
        return Study.model_validate(body)

    for provenance in (None, "local"):  # the fusion's noise would not cover what the encoder knows of these patients
        with pytest.raises(ValueError, match=r"encoders.ehr: pretrained (locally )?without"):
            study("patient", provenance)
    with pytest.raises(ConsiliumError, match="its provenance is 'local', the study says 'public'"):
        build_model(study("patient", "public"), weights={"w": folder})
    assert build_model(study("none", "local"), weights={"w": folder})


def test_random_encoders_under_a_shared_fusion_are_warned_of(make_study: Make) -> None:
    assert "start at random" in make_study(encoders="local").warnings()[0]
    assert "stay as they were drawn" in make_study(encoders="frozen").warnings()[0]
    assert make_study(encoders="shared").warnings() == ()
