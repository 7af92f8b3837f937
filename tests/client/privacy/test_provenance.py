"""The provenance gate: what lies upstream of a release, who pays for it, and what breaks the promise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.numpy

from fl_client.approval import approve_study, list_approved
from fl_client.failures import code_of
from fl_client.payment import Payments, site_ledger
from fl_client.privacy.provenance import Provenance, ProvenanceError
from fl_client.privacy.upstream import Upstream
from fl_shared.audit import AuditLog
from fl_shared.bundle import Bundle, Origin, origins_of
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import Site
from fl_shared.study import Study, load_study
from fl_shared.weights import directory_digest
from fl_shared.wire import Code

EARLIER, FIRST = "e" * 64, "f" * 64  # identities of pretraining studies


@pytest.fixture
def site(make_site: Callable[..., Site], tmp_path: Path) -> Site:
    made = make_site(cap=30.0, open=True).model_copy(update={"weights": {"w": Path("bundle")}})
    made.state_dir.mkdir()
    return made


@pytest.fixture
def study(write_study: Callable[..., Path]) -> Study:
    return load_study(write_study())


def changed(study: Study, **parts: Any) -> Study:
    body = study.model_dump(mode="json", by_alias=True)
    for key, value in parts.items():
        body[key] = {**body[key], **value} if isinstance(value, dict) else value
    return Study.model_validate(body)


def started(study: Study, site: Site, *, provenance: str, cohort: str = "drum_tower", **about: Any) -> Study:
    """The study, whose encoder starts from a bundle that lies beside the site file."""
    folder = site.folder / "bundle"
    folder.mkdir(exist_ok=True)
    plan = study.modalities["ehr"].model_copy(update={"encoder": "ehr_mlp"})
    bundle = Bundle.model_validate(
        {
            "encoder": "ehr_mlp", "modality": plan, "model": study.model, "provenance": provenance,
            "objective": "supervised", "cohort": cohort, "patients": 100, "rounds": 2, "steps": 3, "study": EARLIER,
            "split": "s", "package": "1",
        }
        | about
    )  # fmt: skip
    (folder / "bundle.json").write_text(bundle.model_dump_json(by_alias=True))
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save({}))
    return named(study, folder, provenance)


def named(study: Study, folder: Path, provenance: str | None) -> Study:
    weights = {"weights": "w", "weights_sha256": directory_digest(folder), "provenance": provenance}
    return changed(study, modalities={"ehr": study.model_dump(mode="json")["modalities"]["ehr"] | weights})


def pay(site: Site, *rounds: int, study: str = EARLIER, commit: bool = True, unit: Any = "patient") -> None:
    ledger = site_ledger(site)
    for number in rounds:
        seq = ledger.reserve(
            study=study, round=number, q=0.1, sigma=2.0, clip=1.0, steps=3, delta=1e-5, cap=30.0, budget=30.0,
            parameter_set_hash="p", provenance_hash="v", base_digest=f"{number}", unit=unit,
        )  # fmt: skip
        if commit:
            ledger.commit(seq)


def table(site: Site, study: Study) -> dict[str, Upstream]:
    return {part.what: part for part in Provenance(site, site_ledger(site)).table(study)}


def refused(site: Site, study: Study) -> str:
    """The one fault; nothing is paid for, whatever is asked, and it is not approved."""
    with pytest.raises(ProvenanceError) as caught:
        Provenance(site, site_ledger(site)).check(study)
    assert caught.value.code is ExitCode.PRIVACY and code_of(caught.value) is Code.PROVENANCE
    (fault,) = caught.value.faults
    with pytest.raises(ProvenanceError):
        approve_study(site, study, file="study.toml")
    assert list_approved(site) == ()
    return str(fault)


def test_what_a_plain_study_depends_on(site: Site, study: Study) -> None:
    found = table(site, study)
    assert {what: part.provenance for what, part in found.items()} == {
        "normalisation": "public",
        "held-out patients": "public",
        "tasks.death": "public",
        "encoders.ehr": "public",
        "features.ehr": "public",
        "adapters.ehr": "public",
        "fusion": "public",
        "heads.death": "public",
        "shared groups of earlier rounds": "dp",
        "local groups of earlier rounds": "dp",
    }
    assert all(part.chain[0] == "releases of door" and not part.broken for part in found.values())


def test_the_table_is_kept_and_named_in_the_ledger(make_house: Callable[..., Any]) -> None:
    house = make_house()
    house.ask("train")
    house.ask("train", round=2)
    (name,) = {row["provenance_hash"] for row in house.ledger()}
    content = (house.site.state_dir / "provenance" / f"{name}.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == name
    kept = [Upstream.model_validate(part) for part in json.loads(content)]
    assert kept == list(table(house.site, house.study).values())
    (record,) = list_approved(house.site)
    assert list(record.upstream) == kept


# --- bundles


def test_a_bundle_with_dp_is_paid_by_its_rows(site: Site, study: Study) -> None:
    asked = started(study, site, provenance="dp")
    assert "does not pay for round 1 of study eeee" in refused(site, asked)
    pay(site, 1)
    assert "does not pay for round 2 of study eeee" in refused(site, asked)
    pay(site, 2, commit=False)  # reserved: nobody knows what came of it
    assert "does not pay for round 2" in refused(site, asked)
    site_ledger(site).commit(3)
    part = table(site, asked)["encoders.ehr"]
    assert (part.provenance, part.rows, part.broken) == ("dp", (1, 3), "")
    assert part.chain[1:] == ("encoders.ehr", part.chain[2], "study eeeeeeeeeeee at drum_tower")
    assert Provenance(site, site_ledger(site)).check(asked)
    record = approve_study(site, asked, file="study.toml")
    told = "encoders.ehr: dp, study eeeeeeeeeeee, paid from this ledger, ledger rows 1 to 3"
    assert told in map(str, record.upstream)


def test_a_bundle_with_dp_of_another_hospital_is_paid_there(site: Site, study: Study) -> None:
    part = table(site, started(study, site, provenance="dp", cohort="bern"))["encoders.ehr"]
    assert part.provenance == "dp" and not part.broken and "ledger of bern" in part.why


def test_protection_of_each_patient_is_none_of_the_whole_site(site: Site, study: Study) -> None:
    pay(site, 1, 2)
    asked = started(changed(study, training={"encoders": "shared"}, privacy={"mode": "site"}), site, provenance="dp")
    assert "for each patient, but this study promises it for the whole site" in refused(site, asked)


@pytest.mark.parametrize("said", ["public", "disjoint"])
@pytest.mark.parametrize("trace", ["outbox", "audit", "egress", "ledger"])
def test_a_bundle_of_this_cohort_cannot_call_itself_otherwise(site: Site, study: Study, said: str, trace: str) -> None:
    asked = started(study, site, provenance=said)
    assert table(site, asked)["encoders.ehr"].provenance == said  # nothing here knows better: the author's word
    match trace:
        case "outbox":
            (site.state_dir / "outbox" / EARLIER).mkdir(parents=True)
            (site.state_dir / "outbox" / EARLIER / "round_1-00.safetensors").touch()
        case "audit":
            AuditLog(site.state_dir / "audit.jsonl").append("operator", "pretrain", study=EARLIER, rounds=2)
        case "egress":
            AuditLog(site.state_dir / "egress.jsonl").append("egress", "release-train", study=EARLIER, round=1)
        case "ledger":
            pay(site, 1)
    text = refused(site, asked)
    why = f"said to be '{said}', but study eeeeeeeeeeee trained on this cohort without DP ({trace}"
    assert f"encoders.ehr: {why}" in text
    assert "releases of door <- encoders.ehr <- weights 'w'" in text


def test_a_bundle_under_another_name_is_found_by_its_study(site: Site, study: Study) -> None:
    asked = started(study, site, provenance="disjoint", cohort="elsewhere")
    AuditLog(site.state_dir / "audit.jsonl").append("coordinator", "train", study=EARLIER, outcome="ok")
    assert "trained on this cohort" in refused(site, asked)


def test_an_altered_log_is_no_alibi(site: Site, study: Study) -> None:
    asked = started(study, site, provenance="public")
    log = AuditLog(site.state_dir / "audit.jsonl")
    for action in ("pretrain", "approve"):
        log.append("operator", action, study=EARLIER)
    log.path.write_bytes(b"".join(log.path.read_bytes().splitlines(keepends=True)[1:]))
    assert "the audit log was altered at row 1: nobody can say" in refused(site, asked)


@pytest.mark.parametrize(
    ("origin", "says"),
    [
        ({"provenance": "local", "cohort": "drum_tower"}, "encoders.ehr: pretrained locally without DP on this cohort"),
        ({"provenance": "local", "cohort": "other"}, "pretrained locally without DP on patients of other"),
        ({"provenance": "local", "study": "", "cohort": ""}, "pretrained locally without DP on this cohort"),
        ({"provenance": "local", "cohort": "far_away"}, ""),  # no part in the study: other patients
        ({"provenance": "dp", "cohort": "drum_tower", "rounds": 1}, "does not pay for round 1 of study ffff"),
        ({"provenance": "dp", "study": "", "cohort": ""}, "no description names its ledger"),
        ({"provenance": "public", "cohort": "far_away"}, ""),
    ],
)
def test_what_a_bundle_itself_started_from_counts(site: Site, study: Study, origin: Any, says: str) -> None:
    """Public weights made from local ones are local: the chain leads there."""
    upstream = (Origin.model_validate({"study": FIRST} | origin),)
    asked = started(study, site, provenance="public", cohort="far_away", upstream=upstream)
    if not says:
        assert Provenance(site, site_ledger(site)).check(asked)
        return
    text = refused(site, asked)
    assert says in text and "study eeeeeeeeeeee at far_away" in text


def test_weights_from_elsewhere_are_the_authors_word(site: Site, study: Study) -> None:
    folder = site.folder / "bundle"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors.numpy.save({}))
    assert origins_of(study.modalities["ehr"], folder) == (Origin(provenance="local"),)
    part = table(site, named(study, folder, "public"))["encoders.ehr"]
    assert (part.provenance, part.why) == ("public", "pretrained elsewhere, the word of the study's author")
    assert "no description names its ledger" in refused(site, named(study, folder, "dp"))


def test_weights_that_are_not_what_is_pinned(site: Site, study: Study) -> None:
    asked = started(study, site, provenance="public", cohort="far_away")
    (site.folder / "bundle" / "bundle.json").write_text("{}")
    with pytest.raises(ConsiliumError, match="differs from what the study pinned"):
        Provenance(site, site_ledger(site)).check(asked)


def test_nothing_turns_it_off(site: Site, study: Study) -> None:
    """Without a promise it is told and not refused; with any, it is."""
    folder = site.folder / "bundle"
    started(study, site, provenance="public")
    AuditLog(site.state_dir / "audit.jsonl").append("operator", "pretrain", study=EARLIER)
    asked = named(study, folder, "public")
    refused(site, asked)
    plain = changed(asked, privacy={"mode": "none", "epsilon": None})
    assert Provenance(site, site_ledger(site)).check(plain)
    judged = changed(plain, evaluation={"epsilon": 2.0})  # another split: it may have seen the judged patients
    with pytest.raises(ProvenanceError, match="trained on this cohort"):
        Provenance(site, site_ledger(site)).check(judged)
    started(study, site, provenance="public", split=study.evaluation.split)
    same = changed(
        named(study, folder, "public"), privacy={"mode": "none", "epsilon": None}, evaluation={"epsilon": 2.0}
    )
    assert Provenance(site, site_ledger(site)).check(same)


# --- statistics and what is kept here


def test_constants_of_released_statistics(site: Site, study: Study) -> None:
    asked = changed(study, constants_from=[EARLIER])
    what = "statistics of study eeeeeeeeeeee"
    assert (table(site, asked)[what].provenance, table(site, asked)[what].why) == (
        "disjoint", "no patient of this site was counted",
    )  # fmt: skip
    AuditLog(site.state_dir / "audit.jsonl").append("coordinator", "statistics", study=EARLIER, outcome="ok")
    assert f"{what}: released here without DP (audit log)" in refused(site, asked)
    ledger = site_ledger(site)
    seq = ledger.reserve(
        study=EARLIER, round=0, q=1.0, sigma=9.0, clip=1.0, steps=1, delta=1e-5, cap=30.0, budget=30.0,
        parameter_set_hash="p", provenance_hash="v", base_digest="b", purpose="statistics",
    )  # fmt: skip
    assert "released here without DP" in refused(site, asked)  # reserved is not released
    ledger.commit(seq)
    assert (table(site, asked)[what].provenance, table(site, asked)[what].rows) == ("dp", (seq,))
    assert approve_study(site, asked, file="study.toml")


def test_local_groups_of_a_round_that_nobody_paid_for(site: Site, study: Study) -> None:
    payments = Payments(site)
    kept = site.state_dir / "local" / study.identity
    kept.mkdir(parents=True)
    (kept / "round_1.safetensors").touch()
    assert "local groups of earlier rounds: round 1 was trained here without a row" in refused(site, study)
    pay(site, 1, study=study.identity, commit=False)  # reserved pays
    assert payments.trace(study)


def test_what_was_learnt_without_privacy_is_told_to_whoever_approves(make_house: Callable[..., Any]) -> None:
    house = make_house(mode="none", site={"open": True})
    house.ask("train")
    private = changed(house.study, privacy={"mode": "patient", "epsilon": 8.0}, name="second")
    notes = approve_study(house.site, private, file="study.toml").notes
    told = f"trained here without privacy before, and outside what this study promises: {house.study.identity[:12]}"
    assert told in notes


def test_the_service_trains_and_releases_nothing_of_it(make_house: Callable[..., Any]) -> None:
    """Also what became known after the approval, and what lies ready in the outbox."""
    house = make_house()
    house.ask("train")
    kept = house.site.state_dir / "local" / house.study.identity
    kept.mkdir(parents=True)
    (kept / "round_2.safetensors").touch()
    for number, arrays in ((1, None), (2, house.base(1.0))):
        reply, out = house.ask("train", round=number, arrays=arrays)
        assert (reply.status, reply.code, out) == ("refused", Code.PROVENANCE, {})
    assert len(house.pool.trained) == 1 and len(house.ledger()) == 2
    assert "round 2 was trained here without a row" in (house.site.state_dir / "log.jsonl").read_text()
