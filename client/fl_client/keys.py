"""The site's node key: made at the site, only its public half ever travels."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fl_client.files import private_dir, write_private
from fl_shared.site import Site


def ensure_key(site: Site) -> tuple[Path, Path]:
    """(private, public) key files of the site, an EC P-384 pair in OpenSSH form; made when absent."""
    folder = private_dir(site.state_dir)
    private, public = folder / "node.key", folder / "node.pub"
    if not private.exists():
        key = ec.generate_private_key(ec.SECP384R1())
        encoding, none = serialization.Encoding.PEM, serialization.NoEncryption()
        write_private(private, key.private_bytes(encoding, serialization.PrivateFormat.OpenSSH, none))
        open_ssh = serialization.PublicFormat.OpenSSH
        write_private(public, key.public_key().public_bytes(serialization.Encoding.OpenSSH, open_ssh))
    return private, public
