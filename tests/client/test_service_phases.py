"""A study of several phases at the door: what is asked, paid and let out differs from phase to phase."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from fl_client.approval import approve
from fl_client.egress import schema_bytes
from fl_client.service import SiteService
from fl_shared.accounting import Event, epsilon, plan_sigma
from fl_shared.wire import Code, from_npy

PHASES = """
[[training.phases]]
name = "inside"
rounds = 1
trains = ["encoders", "adapters", "fusion"]
[[training.phases]]
name = "head"
rounds = 1
trains = ["heads"]
"""
OWN = """
[[training.phases]]
name = "own"
rounds = 1
trains = ["encoders", "adapters"]
[[training.phases]]
name = "common"
rounds = 1
trains = ["fusion", "heads"]
"""


def released(house, round: int):
    """A stub that trains what the round releases."""
    study = house.study
    house.pool.action = lambda base: {n: a + np.float32(round) for n, a in base.items() if study.releases(n, round)}
    reply, out = house.ask("train", round=round)
    return reply, {name: from_npy(data) for name, data in out.items()}


def test_each_phase_releases_its_own_and_pays_the_same_price(make_house) -> None:
    house = make_house(extra=PHASES)
    first, second = released(house, 1), released(house, 2)
    assert [set(out) for _, out in (first, second)] == [{"fusion.proj.weight"}, {"heads.death.bias"}]
    sigma = plan_sigma(q=0.1, steps=6, epsilon=8.0, delta=1e-5)
    assert house.pool.trained == [(1, sigma), (2, sigma)]
    rows = [row for row in house.ledger() if row["state"] == "RESERVED"]
    assert len({row["parameter_set_hash"] for row in rows}) == 2
    assert {row["sigma"] for row in rows} == {sigma}
    (table,) = {row["provenance_hash"] for row in rows}
    content = (house.site.state_dir / "provenance" / f"{table}.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == table
    assert second[0].epsilon == pytest.approx(epsilon([Event(0.1, sigma, 6)], delta=1e-5))
    assert second[0].epsilon <= 8.0


@pytest.mark.parametrize("order", [(1, 2), (2, 1), (2, 2, 1, 1)])
def test_rounds_in_any_order_cost_no_more(make_house, order) -> None:
    house = make_house(extra=PHASES)
    replies = [released(house, number)[0] for number in order]
    assert [reply.status for reply in replies] == ["ok"] * len(order)
    assert max(reply.epsilon for reply in replies) <= 8.0
    assert len(house.pool.trained) == 2  # the same request again is the same bytes, unpaid


@pytest.mark.parametrize("number", [0, 3, 10**9])
def test_rounds_of_no_phase_are_refused(make_house, number) -> None:
    house = make_house(extra=PHASES)
    assert house.ask("train", round=number)[0].code is Code.BAD_REQUEST
    assert house.pool.trained == [] and house.ledger() == []


def test_a_base_of_the_phase_alone_is_refused(make_house) -> None:
    house = make_house(extra=PHASES)
    for prefixes in (("fusion.",), ("heads.",), ("fusion.", "heads.", "encoders.")):
        assert house.ask("train", arrays=house.base(prefixes=prefixes))[0].code is Code.WRONG_SCHEMA
    assert house.pool.trained == [] and house.ledger() == []


def test_what_another_phase_trains_does_not_leave(make_house) -> None:
    house = make_house(extra=PHASES)
    house.pool.action = dict  # everything that came, as it came
    reply, out = house.ask("train", round=1)
    assert (reply.code, out) == (Code.EGRESS, {})
    assert [row["state"] for row in house.ledger()] == ["RESERVED", "VOID"]


def test_the_byte_budget_is_that_of_the_phase(make_house, monkeypatch) -> None:
    house, budgets = make_house(extra=PHASES), []
    release = house.service._desk.egress.release_arrays
    monkeypatch.setattr(
        house.service._desk.egress,
        "release_arrays",
        lambda a, **k: (budgets.append(k["byte_budget"]), release(a, **k))[1],
    )
    released(house, 1)
    released(house, 2)
    specs = {"fusion.proj.weight": ((3, 4), "float32")}, {"heads.death.bias": ((1,), "float32")}
    assert budgets == [schema_bytes(spec) for spec in specs]


def test_a_phase_that_trains_only_what_stays_releases_nothing(make_house) -> None:
    house = make_house(extra=OWN)
    assert released(house, 1) == (house.service._desk.reply(house.study), {})
    assert [row["state"] for row in house.ledger()] == ["RESERVED", "COMMITTED"]  # the encoders may leave later
    house.restart()
    assert released(house, 1)[1] == {} and len(house.pool.trained) == 1
    assert set(released(house, 2)[1]) == {"fusion.proj.weight", "heads.death.bias"}
    assert set(house.ask("encoders", arrays={}, round=2)[1]) == {"encoders.ehr.weight", "adapters.ehr.weight"}


def test_nothing_local_no_encoders_whatever_is_asked(make_house) -> None:
    house = make_house(encoders="frozen", extra=OWN.replace('"encoders", "adapters"', '"fusion"'))
    base = house.base(prefixes=("fusion.", "heads.", "adapters."))
    for number in (1, 2):
        house.pool.action = lambda base, k=number: {n: a for n, a in base.items() if house.study.releases(n, k)}
        assert house.ask("train", arrays=base, round=number)[0].status == "ok"
    assert [house.ask("encoders", arrays={}, round=k)[0].code for k in (0, 1, 2, 3)] == [Code.EGRESS] * 4


def test_the_approver_is_told_what_each_phase_lets_out(make_site, write_study) -> None:
    def leaves(encoders: str, extra: str, training: str = "") -> tuple[str, ...]:
        path = write_study(encoders=encoders, extra=extra)
        path.write_text(path.read_text().replace("steps = 3", f"steps = 3\n{training}"))
        return approve(make_site(), path).leaves[:-1]

    assert leaves("local", PHASES) == (
        "fusion (every round of phase 'inside')",
        "heads (every round of phase 'head')",
        "encoders, adapters (once, after the last round)",
    )
    parts = PHASES.replace('"encoders", "adapters"', '"encoders.ehr"').replace('["heads"]', '["heads.death"]')
    assert leaves("local", parts, 'local = ["heads"]') == (
        "fusion (every round of phase 'inside')",
        "nothing (every round of phase 'head')",
        "encoders.ehr, heads.death (once, after the last round)",
    )
    assert leaves("adapters", parts)[0] == (
        "low-rank adapters of encoders.ehr, fusion (every round of phase 'inside')"
    )  # fmt: skip
    assert leaves("frozen", parts)[0] == "fusion (every round of phase 'inside')"


def test_a_service_of_one_study_answers_for_no_other(make_house) -> None:
    """Pretraining needs no approval on disk, and opens no door for those who have none."""
    house = make_house(accept=False)
    house.service = SiteService(house.site, house.pool, only=house.study)
    assert house.ask("train")[0].status == "ok"
    assert house.ask("train", study="0" * 64)[0].code is Code.NOT_APPROVED
    house.restart()
    assert house.ask("train")[0].code is Code.NOT_APPROVED
