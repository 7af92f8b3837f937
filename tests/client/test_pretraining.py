"""Encoder bundles: pretrained at a site, resumed, paid for under privacy, and started from."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from fl_client import bundles
from fl_client.approval import approved, audit_log, list_approved
from fl_client.data.load import load_cohort
from fl_client.payment import site_ledger
from fl_client.pretraining import Pretraining, pretrain, pretraining_study
from fl_client.runtime import SiteLock
from fl_client.service import SiteService
from fl_client.training.actors import LocalPool
from fl_client.training.loop import Trainer
from fl_shared.bundle import read_bundle
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.models.build import build_model, select
from fl_shared.site import Site, load_site
from fl_shared.study import Study, load_study
from fl_shared.weights import directory_digest
from fl_shared.wire import Request, digest, to_npy
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
    original = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda self, **a: (computed.append(a["round"]), original(self, **a))[1])
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


# --- what a clumsy or unlucky user meets


def count(calls: list[int]) -> Callable[[int], None]:
    return lambda number: calls.append(number)


def test_nobody_else_may_ask_for_the_rounds_of_a_pretraining(site: Site, make_study: Make, tmp_path: Path) -> None:
    """Its encoders are 'shared': an approval left on disk would hand them to a coordinator without noise."""
    study = make_study()
    pretrain(site, study, plan("ehr"), out=tmp_path / "out")
    made = pretraining_study(study, "aachen", plan("ehr"))
    assert approved(site, made.identity) is None and list_approved(site) == ()
    model = select(build_model(made))
    request = Request(kind="train", study=made.identity, round=1, base=digest(model), initial=digest(model))
    service = SiteService(site, LocalPool(site))
    reply, out = service.handle(request.model_dump_json(), {name: to_npy(array) for name, array in model.items()})
    assert '"study-not-approved"' in reply and out == {}
    assert "pretrain" in [row["action"] for row in audit_log(site).rows()]


def test_what_stands_in_the_place_of_a_bundle_is_left_alone(site: Site, make_study: Make, tmp_path: Path) -> None:
    """--out could be the site's own folder, where ecg/ holds the patients' files."""
    (tmp_path / "out" / "ehr").mkdir(parents=True)
    (tmp_path / "out" / "ehr" / "000001.dat").write_text("a patient")
    calls: list[int] = []
    with pytest.raises(ConsiliumError, match="no bundle, but it stands here") as caught:
        pretrain(site, make_study(), plan("ehr"), out=tmp_path / "out", done=count(calls))
    assert caught.value.code == ExitCode.USAGE and calls == []
    assert (tmp_path / "out" / "ehr" / "000001.dat").exists()


def test_a_bundle_is_replaced_by_its_successor(site: Site, make_study: Make, tmp_path: Path) -> None:
    first = pretrain(site, make_study(), plan("ehr", rounds=1), out=tmp_path / "out")["ehr"]
    second = pretrain(site, make_study(), plan("ehr", rounds=2), out=tmp_path / "out")["ehr"]
    assert first[0] == second[0] and first[1] != second[1]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["ehr"]


def test_a_place_that_cannot_be_written_is_told_before_training(site: Site, make_study: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    calls: list[int] = []
    with pytest.raises(ConsiliumError, match="bundles cannot be written") as caught:
        pretrain(site, make_study(), plan("ehr"), out=tmp_path / "file" / "out", done=count(calls))
    assert caught.value.code == ExitCode.USAGE and calls == []


def test_a_full_disk_costs_no_finished_round(
    site: Site, make_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, out = make_study(mode="patient"), tmp_path / "out"
    old = pretrain(site, make_study(mode="patient", batch=9), plan("ehr", rounds=1), out=out)["ehr"]
    write = bundles.write_private

    def full(path: Path, data: bytes) -> None:
        if path.name == "model.safetensors":
            raise OSError(28, "No space left on device")
        write(path, data)

    kept = r"No space left.*finished rounds are kept"
    with monkeypatch.context() as patch, pytest.raises(ConsiliumError, match=kept):
        patch.setattr(bundles, "write_private", full)
        pretrain(site, study, plan("ehr", rounds=1), out=out)
    assert directory_digest(out / "ehr") == old[1]  # the older bundle is whole, and nothing lies about
    assert [path.name for path in out.iterdir()] == ["ehr"]
    paid = site_ledger(site).spent(1e-5)
    pretrain(site, study, plan("ehr", rounds=1), out=out)
    assert site_ledger(site).spent(1e-5) == paid


def test_a_budget_that_ends_half_way_keeps_what_is_paid(site: Site, make_study: Make, tmp_path: Path) -> None:
    study = make_study(mode="patient")
    poor = site.model_copy(update={"privacy": site.privacy.model_copy(update={"epsilon_cap": 6.5})})
    calls: list[int] = []
    ended = r"round 3 .* privacy-budget-exhausted.*finished rounds are kept"
    with pytest.raises(ConsiliumError, match=ended) as caught:
        pretrain(poor, study, plan("ehr", rounds=4), out=tmp_path / "out", done=count(calls))
    assert caught.value.code == ExitCode.PRIVACY and calls == [1, 2]
    assert not (tmp_path / "out" / "ehr").exists()
    spent = site_ledger(site).spent(1e-5)
    assert 0 < spent <= 6.5
    rich = site.model_copy(update={"privacy": site.privacy.model_copy(update={"epsilon_cap": 8.0})})
    found = pretrain(rich, study, plan("ehr", rounds=4), out=tmp_path / "out")
    bundle = read_bundle(found["ehr"][0])
    assert bundle is not None and bundle.epsilon is not None and spent < bundle.epsilon <= 8.0
    assert sum(row.state == "RESERVED" for row in site_ledger(site).rows()) == 4  # the first two were not paid again


def test_a_modality_that_nobody_has_here(site: Site, make_study: Make, tmp_path: Path) -> None:
    """Not mapped at all, and mapped but without a row: a bundle of noise or of the start would say it was trained."""
    bare = site.model_copy(update={"modalities": {k: v for k, v in site.modalities.items() if k != "ecg"}})
    with pytest.raises(ConsiliumError, match="has none of the study's modalities") as caught:
        pretrain(bare, make_study(), plan("ecg"), out=tmp_path / "out")
    assert caught.value.code == ExitCode.NOT_APPROVED
    for mode in ("none", "patient"):
        with pytest.raises(ConsiliumError, match="no training patient of aachen has ecg") as caught:
            pretrain(bare, make_study(mode=mode), plan("ecg", "ehr"), out=tmp_path / "out")
        assert caught.value.code == ExitCode.DATA
    assert not site_ledger(site).rows()


def test_an_external_site_does_not_learn_from_those_who_judge(make_study: Make) -> None:
    body = make_study().model_dump(mode="json", by_alias=True)
    body["sites"]["bern"] = {"role": "external", "patients": 20}
    for name, problem in (("bern", "bern is external in this study"), ("chur", "the study has no site chur")):
        with pytest.raises(ConsiliumError, match=problem) as caught:
            pretraining_study(Study.model_validate(body), name, plan("ehr"))
        assert caught.value.code == ExitCode.STUDY


def test_a_loss_that_couples_patients_is_refused_under_privacy(make_study: Make) -> None:
    with pytest.raises(ConsiliumError, match="contrastive loss couples patients") as caught:
        pretraining_study(make_study(mode="patient"), "aachen", plan("ecg", "ehr", objective="contrastive"))
    assert caught.value.code == ExitCode.STUDY


def test_settings_of_the_study_s_own_fusion_are_not_carried_along(make_study: Make) -> None:
    body = make_study().model_dump(mode="json", by_alias=True)
    fusion = {"guide": "ecg", "shares": dict.fromkeys(body["modalities"], 0.5), "levels": {"ecg": 1}}
    body["model"] |= fusion
    made = pretraining_study(Study.model_validate(body), "aachen", plan("ehr"))
    assert (made.model.guide, made.model.shares, made.model.levels) == (None, {}, {})


def test_reading_longer_than_a_round_may_last_is_no_failure(
    site: Site, make_study: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study's deadline is for a waiting coordinator: none waits here."""
    body = make_study().model_dump(mode="json", by_alias=True)
    body["rounds"]["deadline"] = 0.001
    assert pretrain(site, Study.model_validate(body), plan("ehr", rounds=1), out=tmp_path / "out")


# --- bundles that do not fit


def warm(study: Study, name: str, sha: str, *, width: int | None = None, encoder: str | None = None) -> Study:
    body = study.model_dump(mode="json", by_alias=True)
    body["modalities"][name] |= {"weights": "w", "weights_sha256": sha} | ({"encoder": encoder} if encoder else {})
    body["model"] |= {"width": width} if width else {}
    return Study.model_validate(body)


def fault_of(study: Study, folder: Path) -> str:
    with pytest.raises(ConsiliumError) as caught:
        build_model(study, weights={"w": folder})
    assert caught.value.code == ExitCode.SITE
    (fault,) = caught.value.faults
    assert "\n" not in str(fault)
    return str(fault)


def test_a_bundle_of_another_encoder_size_or_content(site: Site, make_study: Make, tmp_path: Path) -> None:
    study = make_study()
    folder, sha = pretrain(site, study, plan("ehr", rounds=1), out=tmp_path / "out")["ehr"]
    assert build_model(warm(study, "ehr", sha), weights={"w": folder})
    other = fault_of(warm(study, "ehr", sha, encoder="table_mlp"), folder)
    assert "holds the encoder 'ehr_mlp', the study has 'table_mlp'" in other
    wide = fault_of(warm(study, "ehr", sha, width=2 * study.model.width), folder)
    assert f"made for ehr_mlp of width {study.model.width}" in wide and f"{2 * study.model.width}" in wide
    assert "differs from what the study pinned" in fault_of(warm(study, "ehr", "0" * 64), folder)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("bundle.json", b"{", "unreadable"),
        ("bundle.json", b"\xff\xfe", "unreadable"),
        ("bundle.json", b'{"encoder": "ehr_mlp", "colour": 1}', "provenance: Field required"),
        ("model.safetensors", b"", "cannot be read"),
        ("model.safetensors", b"\x08\0\0\0\0\0\0\0{}      ", "arrays differ"),
        ("model.safetensors", b"PK\x03\x04" * 50, "cannot be read"),
    ],
)
def test_a_damaged_bundle(site: Site, make_study: Make, tmp_path: Path, file: str, content: bytes, says: str) -> None:
    study = make_study()
    folder, _ = pretrain(site, study, plan("ehr", rounds=1), out=tmp_path / "out")["ehr"]
    (folder / file).write_bytes(content)
    assert says in fault_of(warm(study, "ehr", directory_digest(folder)), folder)


# --- the command


def command(written: Path, tmp_path: Path, *options: str, mode: str = "none", rounds: int = 2) -> subprocess.Popen[str]:
    sites = tmp_path / "sites"
    if not sites.exists():
        shutil.copytree(written, sites)
        text = (sites / "study.toml").read_text()
        table = 'mode = "none"' if mode == "none" else 'mode = "patient"\nepsilon = 8.0'
        text = re.sub(r'mode = "\w+"\n(epsilon = .*\n)?', table + "\n", text)
        (sites / "study.toml").write_text(re.sub(r"(?m)^steps = \d+", "steps = 2", text))
    program = [sys.executable, "-m", "fl_client.cli", "--sites-dir", str(sites), "--site", "aachen", "pretrain"]
    study = [str(sites / "study.toml"), "--modality", "ehr", "--out", str(tmp_path / "out"), "--rounds", str(rounds)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        program + study + [*options], env=environment, stdout=pipe, stderr=pipe, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=180)
    return process.returncode, out, err


def test_the_command_says_what_to_write_where(written: Path, tmp_path: Path) -> None:
    code, out, _ = finished(command(written, tmp_path, "--format", "json", mode="patient"))
    assert code == 0
    (told,) = json.loads(out)["bundles"].values()
    assert told["provenance"] == "dp" and directory_digest(Path(told["folder"])) == told["weights_sha256"]
    code, out, _ = finished(command(written, tmp_path))
    assert code == 0 and told["weights_sha256"] in out and 'provenance = "dp"' in out and "[weights]  ehr" in out
    code, out, err = finished(command(written, tmp_path, rounds=0))
    assert code == ExitCode.USAGE and "--rounds" in err


def test_not_while_the_site_is_served(written: Path, tmp_path: Path) -> None:
    assert finished(command(written, tmp_path))[0] == 0
    lock = SiteLock(load_site(tmp_path / "sites" / "aachen"))
    lock.acquire()
    try:
        code, out, _ = finished(command(written, tmp_path, "--format", "json"))
    finally:
        lock.release()
    assert code == ExitCode.ALREADY_RUNNING and json.loads(out)["faults"][0]["value"] == str(os.getpid())


def test_an_interrupt_frees_the_site_and_keeps_the_rounds(written: Path, tmp_path: Path) -> None:
    process = command(written, tmp_path, rounds=400)
    site = load_site(tmp_path / "sites" / "aachen")
    end = time.monotonic() + 120
    while time.monotonic() < end and not list((site.state_dir / "outbox").rglob("round_2-*")):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, _, err = finished(process)
    assert code not in (0, ExitCode.FAILED) and "Traceback" not in err
    kept = len(list((site.state_dir / "outbox").rglob("round_*")))
    assert kept >= 2 and not (tmp_path / "out" / "ehr").exists()
    lock = SiteLock(site)
    lock.acquire()
    lock.release()
