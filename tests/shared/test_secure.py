"""The parts of secure aggregation: fixed point, masks, shares, sealing, and what binds them to a round."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from itertools import combinations

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fl_shared import secure, secure_masks
from fl_shared.fitting_secure import threshold

BITS = 30


def arrays(rng: np.random.Generator, scale: float) -> dict[str, np.ndarray]:
    return {
        "fusion.w": rng.normal(0, scale, (7, 5)).astype(np.float32),
        "heads.b": rng.normal(0, scale, ()).astype(np.float32),
        "heads.steps": rng.integers(-5, 5, 3),
    }


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 5000), min_size=1, max_size=10), st.sampled_from([1e-6, 1.0, 50]))
def test_the_mean_is_exact_to_the_quantisation(seed: int, patients: list[int], scale: float) -> None:
    rng = np.random.default_rng(seed)
    base = arrays(rng, 1.0)
    updates = [
        {n: a + b for (n, a), b in zip(base.items(), arrays(rng, scale).values(), strict=True)} for _ in patients
    ]
    total = np.zeros(secure.size(base), dtype=np.uint64)
    for update, n in zip(updates, patients, strict=True):
        total += secure.encode(update, base, patients=n, bits=BITS)
    mean = secure.decode(total, base, patients=sum(patients), bits=BITS)
    for name in base:
        expected = sum(n * u[name].astype(np.float64) for n, u in zip(patients, updates, strict=True)) / sum(patients)
        assert mean[name].shape == base[name].shape
        assert (np.abs(mean[name] - expected) <= 2.0 ** -(BITS + 1) + np.abs(expected) * 1e-15).all()


def test_largest_sums_do_not_wrap() -> None:
    base = {"w": np.zeros(2, np.float32)}
    patients = [5000, 12000, 3001]
    bits = secure.TOP - 16 - sum(patients).bit_length()
    ends = {"w": np.array([secure.RANGE, -secure.RANGE], np.float32)}
    total = sum(secure.encode(ends, base, patients=n, bits=bits) for n in patients)
    mean = secure.decode(total, base, patients=sum(patients), bits=bits)
    assert mean["w"].tolist() == [secure.RANGE, -secure.RANGE]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 2.0**17])
def test_what_does_not_fit_is_refused(value: float) -> None:
    with pytest.raises(FloatingPointError):
        secure.encode({"w": np.array([value])}, {"w": np.zeros(1)}, patients=1, bits=BITS)


def test_a_sum_with_a_mask_left_on_it_is_refused() -> None:
    base = {"w": np.zeros(200)}
    mask = secure_masks.own_mask(bytes(32), b"", 200)
    with pytest.raises(ValueError, match="range"):
        secure.decode(mask, base, patients=100, bits=BITS)


def test_masks_are_uniform_and_use_the_whole_seed() -> None:
    """Flower's generator would give one mask for both seeds: it folds them to 32 bits by exclusive or."""
    seed = bytes(range(32))
    folded = seed[4:8] + seed[:4] + seed[8:]
    masks = [secure_masks.own_mask(s, b"round 1", 20000) for s in (seed, folded)] + [
        secure_masks.own_mask(seed, b"round 2", 20000)
    ]
    for mask in masks:
        assert mask.dtype == np.uint64
        for shift in (0, 24, 56):
            counts = np.bincount(((mask >> np.uint64(shift)) & np.uint64(255)).astype(int), minlength=256)
            assert stats.chisquare(counts).pvalue > 1e-6
    for one, other in combinations(masks, 2):
        assert not (one == other).any()
        assert abs(np.corrcoef(one.astype(float), other.astype(float))[0, 1]) < 0.05


def test_the_key_stream_is_aes_256_in_counter_mode() -> None:
    """Against AES-GCM of the same library, whose body is counter mode from block 2 on."""
    key = hmac.digest(bytes(32), b"own\0here", hashlib.sha256)
    body = AESGCM(key).encrypt(bytes(12), bytes(64), None)[:64]
    ours = secure_masks.own_mask(bytes(32), b"here", 12).tobytes()  # blocks 0 to 5 of a counter from 0
    assert ours[32:96] == body


def test_both_sites_get_the_same_pair_mask_and_nobody_else() -> None:
    one, other, third = (secure_masks.new_key() for _ in range(3))
    mask = secure_masks.pair_mask(one, secure_masks.public_key(other), b"t", 50)
    assert (mask == secure_masks.pair_mask(other, secure_masks.public_key(one), b"t", 50)).all()
    assert not (mask == secure_masks.pair_mask(third, secure_masks.public_key(one), b"t", 50)).any()
    assert not (mask == secure_masks.pair_mask(one, secure_masks.public_key(other), b"u", 50)).any()


@pytest.mark.parametrize("sites", [3, 4, 7, 10])
def test_a_threshold_of_shares_opens_and_fewer_do_not(sites: int) -> None:
    least = threshold(sites)
    for secret in (bytes(range(32)), secure_masks.new_key()):
        shares = secure_masks.split(secret, threshold=least, parts=sites)
        rng = np.random.default_rng(sites)
        for _ in range(3):
            chosen = [shares[k] for k in rng.permutation(sites)[:least]]
            assert secure_masks.combine(chosen) == secret
            with contextlib.suppress(ValueError):
                assert secure_masks.combine(chosen[:-1]) != secret
    with pytest.raises(ValueError, match="not shares"):
        secure_masks.combine([shares[0], shares[0]])


def test_sizes_on_the_wire_are_fixed() -> None:
    for _ in range(5):
        key = secure_masks.new_key()
        public = secure_masks.public_key(key)
        seed = secure_masks.split(bytes(32), threshold=3, parts=10)[9]
        part = secure_masks.split(key, threshold=3, parts=10)[9]
        assert (len(seed), len(part)) == (secure_masks.SEED_SHARE_BYTES, secure_masks.KEY_SHARE_BYTES)
        shared = secure_masks.agree(key, secure_masks.public_key(secure_masks.new_key()))
        sealed = secure_masks.seal(shared, secure_masks.Shares(seed=seed, key=part), source=9, target=8)
        assert (len(public), len(sealed)) == (secure_masks.KEY_BYTES, secure_masks.SEALED_BYTES)


def test_sealed_shares_open_for_one_pair_of_one_round() -> None:
    one, other = secure_masks.new_key(), secure_masks.new_key()
    shares = secure_masks.Shares(seed=bytes(52), key=bytes(324))
    key = secure_masks.agree(one, secure_masks.public_key(other))
    sealed = secure_masks.seal(key, shares, source=0, target=2)
    assert secure_masks.unseal(key, sealed, source=0, target=2) == shares
    with pytest.raises(ValueError, match="another pair"):
        secure_masks.unseal(key, sealed, source=0, target=1)
    with pytest.raises(ValueError, match="another pair"):
        secure_masks.unseal(key, sealed, source=2, target=0)  # reflected
    fresh = secure_masks.agree(secure_masks.new_key(), secure_masks.public_key(other))
    for wrong in (sealed[:-4] + b"AAAA", b"", bytes(612)):
        with pytest.raises(ValueError, match="not sealed"):
            secure_masks.unseal(key, wrong, source=0, target=2)
    with pytest.raises(ValueError, match="not sealed"):
        secure_masks.unseal(fresh, sealed, source=0, target=2)


def test_keys_of_other_kinds_are_refused() -> None:
    pem, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    small = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(pem, form)
    for wrong in (small, b"", bytes(215), b"-----BEGIN PUBLIC KEY-----"):
        assert not secure_masks.is_key(wrong)
        with pytest.raises(ValueError, match="P-384"):
            secure_masks.agree(secure_masks.new_key(), wrong)


def test_the_transcript_sees_every_difference() -> None:
    said = {
        "study": "s", "round": 1, "base": "b",
        "keys": {"secure.a": np.zeros((2, 3), np.uint8)}, "sealed": {"secure.a.b": np.ones(3, np.uint8)},
    }  # fmt: skip
    others = [
        {"study": "t"}, {"round": 2}, {"base": "c"}, {"keys": {"secure.a": np.ones((2, 3), np.uint8)}},
        {"keys": {}}, {"sealed": {"secure.a.b": np.zeros(3, np.uint8)}},
        {"sealed": {"secure.b.a": np.ones(3, np.uint8)}},
    ]  # fmt: skip
    assert len({secure.transcript(**{**said, **change}) for change in ({}, *others)}) == 8


def test_sealed_shares_must_be_complete() -> None:
    among = ["a", "b", "c", "d"]
    whole = {"secure.a.b", "secure.a.c", "secure.b.a", "secure.b.c", "secure.c.a", "secure.c.b"}
    assert secure.sealed_sites(whole, among=among) == ["a", "b", "c"]
    assert secure.sealed_sites(whole - {"secure.c.a"}, among=among) == []
    assert secure.sealed_sites(whole | {"secure.a.x"}, among=among) == []
    assert secure.sealed_sites({}, among=among) == []
