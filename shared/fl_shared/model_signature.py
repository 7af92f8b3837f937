"""Who vouches for a model bundle: an Ed25519 key of the coordinator, its signature over the bundle's checksums.

The public key travels apart from the bundle, and its fingerprint is compared by voice, as that of a site's node key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from pydantic import ValidationError

from fl_shared.errors import ConsiliumError, ExitCode
from fl_shared.toml import Section

PRIVATE, PUBLIC = "bundle.key", "bundle.pub"
PURPOSE = b"consilium model bundle 1\n"  # so that a signature over something else is never one of a bundle


class Signature(Section):
    """The file ``SIGNATURE``. ``key`` is the fingerprint of the public key, to name the signer where it is unknown."""

    algorithm: Literal["ed25519"] = "ed25519"
    key: str
    signature: str


def ensure_signing_key(folder: Path) -> tuple[Path, Path]:
    """(private, public) key files in ``folder``, PEM; made when absent, the private one 0600."""
    private, public = folder / PRIVATE, folder / PUBLIC
    if not private.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = Ed25519PrivateKey.generate()
        handle = os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as stream:
            stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    if not public.exists():
        public.write_bytes(_private(private).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


def fingerprint(public: Path) -> str:
    """SHA-256 of a public key, in hexadecimal digits.

    Raises:
        ConsiliumError: no such key (exit code 2).
    """
    return _fingerprint(_public(public))


def sign(content: bytes, private: Path) -> bytes:
    """The file ``SIGNATURE`` over ``content``."""
    key = _private(private)
    made = base64.b64encode(key.sign(PURPOSE + content)).decode()
    return Signature(key=_fingerprint(key.public_key()), signature=made).model_dump_json(indent=2).encode()


def signer(signature: bytes | None, content: bytes, *, trust: Path) -> str:
    """Fingerprint of the trusted key that signed ``content``.

    Args:
        signature: of the file ``SIGNATURE``; None when there is none.
        content: what is signed.
        trust: the public key that is trusted.

    Raises:
        ValueError: unsigned, or not by this key; in words.
        ConsiliumError: ``trust`` is no public key (exit code 2).
    """
    key = _public(trust)
    if signature is None:
        raise ValueError("it is not signed")
    try:
        found = Signature.model_validate_json(signature)
        made = base64.b64decode(found.signature, validate=True)
    except (ValidationError, binascii.Error) as error:
        raise ValueError("the signature is unreadable") from error
    if found.key != _fingerprint(key):
        raise ValueError(f"signed by the key {found.key[:64]}, trusted is {_fingerprint(key)}")
    try:
        key.verify(made, PURPOSE + content)
    except InvalidSignature as error:
        raise ValueError("the signature is not of these files") from error
    return _fingerprint(key)


def _fingerprint(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _private(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConsiliumError(f"{path}: not a private key in PEM form. {error}", code=ExitCode.USAGE) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConsiliumError(f"{path}: not an Ed25519 key", code=ExitCode.USAGE)
    return key


def _public(path: Path) -> Ed25519PublicKey:
    mend = "Ask the coordinator for bundle.pub (fl-server promote names it)."
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConsiliumError(f"{path}: not a public key in PEM form. {mend}", code=ExitCode.USAGE) from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConsiliumError(f"{path}: not an Ed25519 key. {mend}", code=ExitCode.USAGE)
    return key
