"""The cryptography of secure aggregation: Flower's key agreement, sealing and secret sharing; masks of our own.

Flower's mask generator (`pseudo_rand_gen`) folds its 256-bit seed to 32 bits for a Mersenne twister: whoever relays a
masked update could try all of them in minutes. Masks here are the AES-256 key stream under the whole seed. Flower's
quantisation rounds at random and wraps at 32 bits; ours is the fixed point of `fl_shared.secure`.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import urlsafe_b64decode
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from flwr.common.secure_aggregation.crypto import shamir
from flwr.common.secure_aggregation.crypto import symmetric_encryption as sealing
from flwr.common.secure_aggregation.secaggplus_utils import share_keys_plaintext_concat, share_keys_plaintext_separate
from flwr.supercore.primitives import asymmetric
from numpy.typing import NDArray

from fl_shared.secure import Words

SEED_BYTES = 32
KEY_BYTES = 215  # a P-384 public key as PEM
SEALED_BYTES = 612  # a seed's share and a key's share as a Fernet token
SEED_SHARE_BYTES, KEY_SHARE_BYTES = 52, 324

Octets = NDArray[np.uint8]


def octets(data: bytes) -> Octets:
    """Bytes as an array for the wire."""
    return np.frombuffer(data, dtype=np.uint8)


@dataclass(frozen=True, kw_only=True)
class Shares:
    """One site's shares of another's secrets, of which it may ever tell one."""

    seed: bytes
    key: bytes


def new_key() -> bytes:
    """A fresh P-384 private key (PEM)."""
    return bytes(asymmetric.private_key_to_bytes(asymmetric.generate_key_pairs()[0]))


def public_key(private: bytes) -> bytes:
    """Its public half (PEM)."""
    return bytes(asymmetric.public_key_to_bytes(asymmetric.bytes_to_private_key(private).public_key()))


def is_key(public: bytes) -> bool:
    """Whether these bytes are a P-384 public key."""
    try:
        key = asymmetric.bytes_to_public_key(public)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP384R1)


def agree(private: bytes, public: bytes) -> bytes:
    """The key (32 bytes, base64) that the holders of two keys have in common: ECDH, then HKDF.

    Raises:
        ValueError: not a P-384 key.
    """
    if not is_key(public):
        raise ValueError("not a P-384 key")
    other = asymmetric.bytes_to_public_key(public)
    return bytes(sealing.generate_shared_key(asymmetric.bytes_to_private_key(private), other))


def split(secret: bytes, *, threshold: int, parts: int) -> list[bytes]:
    """Shamir shares of a secret."""
    return list(shamir.create_shares(secret, threshold, parts))


def combine(shares: list[bytes]) -> bytes:
    """The secret of at least ``threshold`` shares.

    Raises:
        ValueError: they are not shares of one secret.
    """
    if len({len(share) for share in shares}) != 1 or len({share[:4] for share in shares}) != len(shares):
        raise ValueError("not shares of one secret")
    return bytes(shamir.combine_shares(shares))


def seal(key: bytes, shares: Shares, *, source: int, target: int) -> bytes:
    """Shares on their way from one site to another, for nobody else to read."""
    return bytes(sealing.encrypt(key, share_keys_plaintext_concat(source, target, shares.seed, shares.key)))


def unseal(key: bytes, sealed: bytes, *, source: int, target: int) -> Shares:
    """The inverse of `seal`.

    Raises:
        ValueError: sealed with another key (of an earlier round, say), changed on its way, or for somebody else.
    """
    try:
        found = share_keys_plaintext_separate(sealing.decrypt(key, sealed))
    except (InvalidToken, InvalidSignature) as error:
        raise ValueError("shares that were not sealed for this round") from error
    shares = Shares(seed=found[2], key=found[3])
    if found[:2] != (source, target) or (len(shares.seed), len(shares.key)) != (SEED_SHARE_BYTES, KEY_SHARE_BYTES):
        raise ValueError("shares of another pair of sites")
    return shares


def own_mask(seed: bytes, transcript: bytes, length: int) -> Words:
    """The mask that a site puts on its update alone."""
    return _expand(seed, b"own\0" + transcript, length)


def pair_mask(private: bytes, public: bytes, transcript: bytes, length: int) -> Words:
    """The mask of two sites: the one whose name comes first adds it, the other subtracts it.

    Raises:
        ValueError: not a P-384 key.
    """
    return _expand(urlsafe_b64decode(agree(private, public)), b"pair\0" + transcript, length)


def _expand(secret: bytes, use: bytes, length: int) -> Words:
    """``length`` uniform 64-bit words. The key is used for this one stream only, so its counter may start at zero."""
    key = hmac.digest(secret, use, hashlib.sha256)
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor().update(bytes(8 * length))
    return np.frombuffer(stream, dtype="<u8").astype(np.uint64, copy=False)
