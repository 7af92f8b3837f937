from __future__ import annotations

import datetime
import socket
import ssl
import threading
from pathlib import Path

import pytest
from cryptography import x509

from fl_server import certificates


def test_the_server_is_trusted_by_its_own_authority_only(tmp_path: Path) -> None:
    certificates.ensure(tmp_path / "a", host="fl.example.org")
    certificates.ensure(tmp_path / "b", host="fl.example.org")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "a/server.crt", tmp_path / "a/server.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(3):
                raw, _ = listener.accept()
                try:
                    server.wrap_socket(raw, server_side=True).close()
                except (ssl.SSLError, ConnectionError):
                    raw.close()

        thread = threading.Thread(target=serve)
        thread.start()

        def connect(authority: str, name: str) -> None:
            context = ssl.create_default_context(cafile=str(tmp_path / authority / "ca.crt"))
            with socket.create_connection(listener.getsockname()) as raw:
                context.wrap_socket(raw, server_hostname=name).close()

        connect("a", "fl.example.org")
        with pytest.raises(ssl.SSLCertVerificationError):
            connect("b", "fl.example.org")
        with pytest.raises(ssl.SSLCertVerificationError):
            connect("a", "evil.example.org")
        thread.join()


def test_keys_are_private_and_a_certificate_near_its_end_is_renewed(tmp_path: Path, monkeypatch) -> None:
    certificates.ensure(tmp_path, host="localhost")
    assert all((tmp_path / n).stat().st_mode & 0o077 == 0 for n in ("ca.key", "server.key"))
    first = (tmp_path / "server.crt").read_bytes()
    certificates.ensure(tmp_path, host="localhost")
    assert (tmp_path / "server.crt").read_bytes() == first
    end = x509.load_pem_x509_certificate(first).not_valid_after_utc
    assert datetime.timedelta(days=89) < end - datetime.datetime.now(datetime.UTC) <= datetime.timedelta(days=90)
    monkeypatch.setattr(certificates, "RENEW_BEFORE", datetime.timedelta(days=91))
    ca = (tmp_path / "ca.crt").read_bytes()
    certificates.ensure(tmp_path, host="localhost")
    assert (tmp_path / "server.crt").read_bytes() != first
    assert (tmp_path / "ca.crt").read_bytes() == ca  # sites keep trusting it
