from __future__ import annotations

import json

import pytest

from fl_client.approval import approve, approved, audit_log, list_approved, revoke
from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.site import load_site
from fl_shared.study import load_study


def test_approve_store_list_revoke(make_site, write_study) -> None:
    site, path = make_site(), write_study()
    study = load_study(path)
    assert approved(site, study.identity) is None
    record = approve(site, path)
    assert (record.identity, record.role, record.patients, record.rounds) == (study.identity, "train", 200, 2)
    assert (record.privacy, record.epsilon, record.delta) == ("patient", 8.0, 1e-5)
    assert record.leaves == (
        "fusion, heads (every round)",
        "encoders, adapters (once, after the last round)",
        "metrics and curves (aggregates)",
    )
    assert record.by and record.time
    assert approved(site, study.identity) == study
    assert list_approved(site) == (record,)
    stored = site.state_dir / "approved" / f"{study.identity}.json"
    assert stored.stat().st_mode & 0o777 == 0o600
    assert revoke(site, study.identity) and not revoke(site, study.identity)
    assert approved(site, study.identity) is None and list_approved(site) == ()
    assert [row["action"] for row in audit_log(site).rows()] == ["approve", "revoke"]


def test_external_site_releases_metrics_only(make_site, write_study) -> None:
    record = approve(make_site(), write_study(role="external"))
    assert (record.rounds, record.leaves) == (0, ("metrics and curves (aggregates)",))


def test_every_fault_at_once(make_site, write_study) -> None:
    site = make_site(roles='["external"]')
    path = write_study(
        mode="none", extra='[tasks.deth]\ntype = "binary"\n[tasks.los]\ntype = "multilabel"\nlabels = ["a", "b"]\n'
    )
    path.write_text(path.read_text().replace('kind = "table"', 'kind = "text"'))
    with pytest.raises(ConsiliumError) as error:
        approve(site, path)
    assert error.value.code is ExitCode.NOT_APPROVED
    keys = {fault.key for fault in error.value.faults}
    assert keys == {"sites.drum_tower.role", "privacy.mode", "tasks.deth", "tasks.los", "modalities.ehr"}
    assert "Did you mean 'death'?" in str(error.value)
    assert not (site.state_dir / "approved").exists()


def test_columns_of_every_type_of_task(make_site, write_study) -> None:
    site = make_site()
    with (site.folder / "site.toml").open("a") as file:
        file.write('[tasks.cause]\ncolumns = { value = "c" }\nclasses = { a = "x", b = "y" }\n')
        file.write('[tasks.follow_up]\ncolumns = { time = "t", event = "e" }\n')
    study = '[tasks.cause]\ntype = "multiclass"\nlabels = ["x", "y"]\n[tasks.{}]\ntype = "survival"\n'
    assert approve(load_site(site.folder), write_study(extra=study.format("follow_up")))
    with pytest.raises(ConsiliumError) as error:
        approve(load_site(site.folder), write_study(extra=study.format("death_time")))
    assert [fault.key for fault in error.value.faults] == ["tasks.death_time"]


def test_sites_outside_the_study_cannot_approve(make_site, write_study) -> None:
    path = write_study()
    path.write_text(path.read_text().replace("[sites.drum_tower]", "[sites.drum_towr]"))
    with pytest.raises(ConsiliumError, match="Did you mean 'drum_towr'"):
        approve(make_site(), path)


def test_without_privacy_only_where_the_site_says_so(make_site, write_study) -> None:
    record = approve(make_site(open=True), write_study(mode="none"))
    assert record.epsilon is None
    assert any("NO privacy" in note for note in record.notes)


def test_lower_cap_is_said(make_site, write_study) -> None:
    assert any("stops at 2.0" in note for note in approve(make_site(cap=2.0), write_study()).notes)


@pytest.mark.parametrize("identity", ["", "x", "../approved", "0" * 63, "0" * 64 + "\n", "A" * 64])
def test_names_that_are_no_hash(make_site, identity) -> None:
    site = make_site()
    assert approved(site, identity) is None
    assert revoke(site, identity) is False


def test_changed_or_renamed_approvals_do_not_count(make_site, write_study) -> None:
    site, path = make_site(), write_study()
    identity = approve(site, path).identity
    stored = site.state_dir / "approved" / f"{identity}.json"
    other = stored.with_name("0" * 64 + ".json")
    other.write_bytes(stored.read_bytes())
    assert approved(site, "0" * 64) is None
    body = json.loads(stored.read_text())
    stored.write_text(json.dumps(body | {"canonical": body["canonical"].replace('"rounds":2', '"rounds":200')}))
    assert approved(site, identity) is None
    stored.write_text("{")
    assert approved(site, identity) is None and list_approved(site) == ()
