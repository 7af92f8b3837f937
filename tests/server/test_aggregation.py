"""Flower's strategies against loops in float64 and the published update formulas."""

from __future__ import annotations

import numpy as np
import pytest

from fl_server.aggregation import MOMENTUM, STEP, aggregate, weighted_mean

PATIENTS = {"aarau": 100, "basel": 300, "chur": 250}
BETA1, BETA2, TAU = 0.9, 0.99, 1e-3


def sites(seed, base):
    rng = np.random.default_rng(seed)
    return {s: {k: (a + rng.normal(size=a.shape)).astype(a.dtype) for k, a in sorted(base.items())} for s in PATIENTS}


@pytest.fixture
def base():
    rng = np.random.default_rng(0)
    return {"heads.b": np.float32(rng.normal(size=())).reshape(()), "fusion.w": rng.normal(size=(5, 7)).astype("f4")}


def mean(updates, name):
    """The float64 loop in site order that the aggregation must equal."""
    total = sum(PATIENTS[s] for s in updates)
    acc = None
    for site in sorted(updates):
        term = updates[site][name].astype(np.float64) * (PATIENTS[site] / total)
        acc = term if acc is None else acc + term
    return acc


def run(study, base, rounds, *, through=lambda state: state):
    model, state = base, {}
    for number in range(1, rounds + 1):
        model, state = aggregate(
            study=study, round_number=number, base=model, updates=sites(number, model), state=through(state)
        )
    return model, state


def test_fedavg_is_the_float64_loop_bit_for_bit_in_any_order_of_arrival(make_study, base):
    updates = sites(1, base)
    for order in (sorted(updates), sorted(updates, reverse=True)):
        model, state = aggregate(
            study=make_study(), round_number=1, base=base, updates={s: updates[s] for s in order}, state={}
        )
        assert state == {}
        for name in base:
            assert model[name].dtype == np.float32
            assert model[name].shape == base[name].shape
            assert model[name].tobytes() == mean(updates, name).astype(np.float32).tobytes()
    assert weighted_mean(study=make_study(), base=base, updates=updates)["fusion.w"].tobytes() == (
        model["fusion.w"].tobytes()
    )


def test_sums_run_in_site_order_down_to_the_last_float64_bit(make_study, base):
    base = {name: array.astype(np.float64) for name, array in base.items()}
    updates = sites(1, base)
    for order in (("chur", "aarau", "basel"), ("basel", "chur", "aarau")):
        model = weighted_mean(study=make_study(), base=base, updates={s: updates[s] for s in order})
        assert model["fusion.w"].tobytes() == mean(updates, "fusion.w").tobytes()


def test_weights_are_declared_patients_of_those_who_answered(make_study, base):
    updates = sites(1, base)
    del updates["basel"]
    model, _ = aggregate(study=make_study(), round_number=1, base=base, updates=updates, state={})
    expected = (100 * updates["aarau"]["fusion.w"].astype(float) + 250 * updates["chur"]["fusion.w"]) / 350
    np.testing.assert_allclose(model["fusion.w"], expected, rtol=1e-5)


def oracle(kind, base, rounds):
    """FedAvgM: Hsu et al. 2019, eq. in section 4.3. Adaptive ones: Reddi et al. 2021, algorithm 2 (v_{-1} = 0)."""
    x = {k: a.astype(np.float64) for k, a in base.items()}
    m = {k: np.zeros_like(a) for k, a in x.items()}
    v = {k: np.zeros_like(a) for k, a in x.items()}
    for t in range(1, rounds + 1):
        model = {k: a.astype(np.float32) for k, a in x.items()}
        updates = sites(t, model)
        for k in x:
            delta = mean(updates, k) - model[k]
            if kind == "fedavgm":
                m[k] = MOMENTUM * m[k] + delta
                x[k] = (model[k] + m[k]).astype(np.float32).astype(float)
                continue
            beta1 = 0.0 if kind == "fedadagrad" else BETA1
            m[k] = beta1 * m[k] + (1 - beta1) * delta
            eta = STEP
            if kind == "fedadagrad":
                v[k] = v[k] + delta**2
            elif kind == "fedyogi":
                v[k] = v[k] - (1 - BETA2) * delta**2 * np.sign(v[k] - delta**2)
            else:  # Kingma & Ba 2015, section 2.1: bias correction in the step size, as Flower counts it (t + 1)
                v[k] = BETA2 * v[k] + (1 - BETA2) * delta**2
                eta *= np.sqrt(1 - BETA2 ** (t + 1)) / (1 - BETA1 ** (t + 1))
            x[k] = (model[k] + eta * m[k] / (np.sqrt(v[k]) + TAU)).astype(np.float32).astype(float)
    return x


@pytest.mark.parametrize("kind", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_server_optimisers_follow_the_published_formulas(make_study, base, kind):
    model, _ = run(make_study(training={"strategy": kind}), base, 4)
    for name, expected in oracle(kind, base, 4).items():
        np.testing.assert_allclose(model[name], expected, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize("kind", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_state_through_safetensors_continues_bit_for_bit(make_study, base, kind):
    from safetensors.numpy import load, save

    study = make_study(training={"strategy": kind})
    straight, _ = run(study, base, 5)
    stored, state = run(study, base, 5, through=lambda s: load(save(dict(s))))
    assert {k: a.tobytes() for k, a in straight.items()} == {k: a.tobytes() for k, a in stored.items()}
    assert {a.dtype for a in state.values()} == {np.dtype(np.float64)}


def test_median_and_trimmed_mean(make_study, base):
    updates = sites(1, base)
    stacked = np.stack([updates[s]["fusion.w"].astype(float) for s in sorted(updates)])
    for kind in ("fedmedian", "fedtrimmedavg"):  # of three sites, trimming leaves the middle one
        study = make_study(training={"strategy": kind})
        model, state = aggregate(study=study, round_number=1, base=base, updates=updates, state={})
        np.testing.assert_array_equal(model["fusion.w"], np.median(stacked, axis=0).astype(np.float32))
        assert state == {}


def test_trimmed_mean_of_two_is_their_mean(make_study, base):
    updates = {s: u for s, u in sites(1, base).items() if s != "chur"}
    study = make_study(training={"strategy": "fedtrimmedavg"})
    model, _ = aggregate(study=study, round_number=1, base=base, updates=updates, state={})
    expected = (updates["aarau"]["fusion.w"].astype(float) + updates["basel"]["fusion.w"]) / 2
    np.testing.assert_allclose(model["fusion.w"], expected, rtol=1e-5)


def test_integers_stay_integers(make_study):
    base = {"heads.n": np.array([1, 2])}
    updates = {"aarau": {"heads.n": np.array([10, 2])}, "basel": {"heads.n": np.array([11, 2])}}
    model, _ = aggregate(study=make_study(), round_number=1, base=base, updates=updates, state={})
    assert model["heads.n"].dtype == np.int64
    assert model["heads.n"].tolist() == [11, 2]  # 10.75


def test_nothing_to_aggregate_is_an_error(make_study, base):
    with pytest.raises(ValueError, match="no update"):
        aggregate(study=make_study(), round_number=1, base=base, updates={}, state={})
