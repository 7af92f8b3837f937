"""The machine's checks against real sockets, certificates, keys and folders."""

from __future__ import annotations

import contextlib
import email.utils
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from rich.console import Console

from fl_client import doctor
from fl_client.doctor import coordinator, machine, private, software
from fl_client.doctor.finding import Finding
from fl_client.keys import ensure_key
from fl_client.runtime import SiteLock
from fl_client.sandbox import OPT_OUT
from fl_server import certificates
from fl_shared.processes import free_port
from fl_shared.site import Resources, Site, load_site

HUGE = 2**60
GIB = 2**30


@pytest.fixture
def make(tmp_path: Path):
    """A site without data whose coordinator is ``address``."""

    def make(*, address: str = "127.0.0.1:1", ca: Path | None = None, more: str = "", metrics_port: int = 0) -> Site:
        (tmp_path / "samples.csv").write_text("patient_id,sample_id,index_time\n")
        trusted = f'root_certificates = "{ca}"\n' if ca else ""
        text = f'schema = 1\nname = "drum_tower"\ntimezone = "Asia/Shanghai"\n{more}\n[network]\n'
        text += f'superlink = "{address}"\nmetrics_port = {metrics_port}\n{trusted}'
        (tmp_path / "site.toml").write_text(text)
        return load_site(tmp_path)

    return make


@pytest.fixture
def tls(tmp_path: Path) -> Path:
    certificates.ensure(tmp_path / "tls", host="127.0.0.1")
    return tmp_path / "tls"


@contextlib.contextmanager
def listening(tls: Path | None, *, ahead: float = 0.0) -> Iterator[str]:
    """A coordinator's front whose clock is ``ahead`` seconds of ours; without ``tls`` it speaks plain HTTP."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response_only(200 if self.path == "/health" else 404)
            self.send_header("Date", email.utils.formatdate(time.time() + ahead, usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Quiet."""

    class Server(HTTPServer):
        def handle_error(self, *_):
            """A client that distrusts us hangs up."""

    server = Server(("127.0.0.1", 0), Handler)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "server.crt", tls / "server.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def signed(tls: Path, *, start: timedelta, end: timedelta, name: str = "127.0.0.1") -> None:
    """Replace the server's certificate by one of other days or another name, by the same authority."""
    authority = x509.load_pem_x509_certificate((tls / "ca.crt").read_bytes())
    signer = serialization.load_pem_private_key((tls / "ca.key").read_bytes(), None)
    key = serialization.load_pem_private_key((tls / "server.key").read_bytes(), None)
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(authority.subject)
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now + start).not_valid_after(now + end)
    names = x509.SubjectAlternativeName([certificates._general_name(name)])
    found = builder.add_extension(names, critical=True).sign(signer, hashes.SHA384())
    (tls / "server.crt").write_bytes(found.public_bytes(serialization.Encoding.PEM))


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    """Every finding that is not ok says how to mend it."""
    assert all(bool(finding.mend) is (finding.status != "ok") for finding in findings)
    return {finding.check: finding for finding in findings}


def statuses(findings: list[Finding]) -> dict[str, str]:
    return {name: finding.status for name, finding in by_name(findings).items()}


def test_a_good_coordinator(make, tls):
    with listening(tls) as address:
        found = by_name(coordinator.examine(make(address=address, ca=tls / "ca.crt")))
    assert {finding.status for finding in found.values()} == {"ok"}
    assert set(found) == {"coordinator's CA", "coordinator", "coordinator's certificate", "clock"}
    assert "TLSv1.3, certificate verified" in found["coordinator"].found
    until = datetime.now(UTC) + timedelta(days=certificates.SERVER_DAYS)
    assert found["coordinator's certificate"].found == f"valid until {until:%Y-%m-%d}"


@pytest.mark.parametrize(
    ("ahead", "status", "words"),
    [(-20.0, "fail", "20."), (20.0, "ok", "behind"), (90.0, "warn", "behind"), (400.0, "fail", "400.")],
)
def test_a_clock_that_the_coordinator_refuses_is_told(make, tls, ahead, status, words):
    with listening(tls, ahead=ahead) as address:
        clock = by_name(coordinator.examine(make(address=address, ca=tls / "ca.crt")))["clock"]
    assert clock.status == status
    assert words in clock.found or f"{abs(ahead) - 1:.0f}." in clock.found
    assert status == "ok" or "NTP" in clock.mend


@pytest.mark.parametrize(
    ("ahead", "status"), [(4.1, "fail"), (3.0, "warn"), (1.0, "ok"), (-59.0, "ok"), (-61.0, "warn"), (-301.0, "fail")]
)
def test_limits_of_the_clock(ahead, status):
    assert coordinator.skew(ahead).status == status


def test_nobody_listens(make, tls):
    found = by_name(coordinator.examine(make(address=f"127.0.0.1:{free_port()}", ca=tls / "ca.crt")))
    assert {name: finding.status for name, finding in found.items()} == {
        "coordinator's CA": "ok", "coordinator": "fail", "clock": "warn",
    }  # fmt: skip
    assert "Connection refused" in found["coordinator"].found and "firewall" in found["coordinator"].mend


def test_a_port_that_does_not_exist(make, tls):
    found = by_name(coordinator.examine(make(address="127.0.0.1:99999", ca=tls / "ca.crt")))
    assert found["coordinator"].status == "fail"


def test_no_tls_at_all(make, tls):
    with listening(None) as address:
        found = by_name(coordinator.examine(make(address=address, ca=tls / "ca.crt")))
    assert "speaks no TLS" in found["coordinator"].found
    assert found["coordinator's certificate"].status == "fail" and found["clock"].status == "warn"


def test_another_authority(make, tls, tmp_path):
    certificates.ensure(tmp_path / "other", host="127.0.0.1")
    with listening(tls) as address:
        found = by_name(coordinator.examine(make(address=address, ca=tmp_path / "other" / "ca.crt")))
    assert found["coordinator"].status == "fail" and "Another authority" in found["coordinator"].mend
    assert found["clock"].status == "warn"  # nothing that it says is believed
    assert found["coordinator's CA"].status == "ok"


def test_an_expired_certificate(make, tls):
    signed(tls, start=timedelta(days=-90), end=timedelta(days=-2))
    with listening(tls) as address:
        found = by_name(coordinator.examine(make(address=address, ca=tls / "ca.crt")))
    day = datetime.now(UTC) - timedelta(days=2)
    assert found["coordinator's certificate"].found == f"expired on {day:%Y-%m-%d}"
    assert "fl-server up" in found["coordinator's certificate"].mend
    assert "expired" in found["coordinator"].found and "clock" in found["coordinator"].mend


def test_a_certificate_of_tomorrow_means_a_wrong_clock(make, tls):
    signed(tls, start=timedelta(days=1), end=timedelta(days=90))
    with listening(tls) as address:
        found = by_name(coordinator.examine(make(address=address, ca=tls / "ca.crt")))
    assert found["coordinator's certificate"].status == "fail"
    assert "clock" in found["coordinator's certificate"].mend and "clock" in found["coordinator"].mend


def test_a_certificate_that_ends_soon_still_works(make, tls):
    signed(tls, start=timedelta(days=-80), end=timedelta(days=5, hours=1))
    with listening(tls) as address:
        found = by_name(coordinator.examine(make(address=address, ca=tls / "ca.crt")))
    assert found["coordinator"].status == "ok"
    assert found["coordinator's certificate"].status == "warn"
    assert found["coordinator's certificate"].found.startswith("expires in 5 day(s)")


def test_a_certificate_for_another_name(make, tls):
    signed(tls, start=timedelta(days=-1), end=timedelta(days=90), name="coordinator.example.org")
    with listening(tls) as address:
        found = by_name(coordinator.examine(make(address=address, ca=tls / "ca.crt")))
    assert found["coordinator"].status == "fail" and "--host 127.0.0.1" in found["coordinator"].mend
    assert found["coordinator's certificate"].status == "ok"


def test_a_missing_or_broken_authority(make, tls, tmp_path):
    (tmp_path / "broken.crt").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "empty.crt").write_text("")
    with listening(tls) as address:
        for ca in (None, tmp_path / "broken.crt", tmp_path / "empty.crt"):
            found = statuses(coordinator.examine(make(address=address, ca=ca)))
            assert found == {"coordinator's CA": "fail", "coordinator's certificate": "ok", "clock": "warn"}


def test_the_node_key(make):
    site = make()
    assert by_name([private.node_key(site)])["node key"].status == "warn"
    key, _ = ensure_key(site)
    assert private.node_key(site).status == "ok"
    key.chmod(0o640)
    open_ = by_name([private.node_key(site)])["node key"]
    assert open_.status == "fail" and "0640" in open_.found and f"chmod 600 {key}" in open_.mend
    key.chmod(0o600)
    whole = key.read_bytes()
    key.write_bytes(whole[:100])
    assert "damaged" in private.node_key(site).found
    other = ed25519.Ed25519PrivateKey.generate()
    text = (serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
    key.write_bytes(other.private_bytes(*text))
    assert "no EC P-384 key" in private.node_key(site).found
    key.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(*text))
    assert "no EC P-384 key" in private.node_key(site).found
    key.rename(key.with_name("elsewhere"))
    key.symlink_to(key.with_name("elsewhere"))
    assert "no regular file" in private.node_key(site).found


def test_the_state_folder(make):
    site = make()
    assert private.state_folder(site).status == "ok"
    site.state_dir.mkdir(mode=0o700)
    assert private.state_folder(site).status == "ok"
    site.state_dir.chmod(0o750)
    found = private.state_folder(site)
    assert found.status == "fail" and "0750" in found.found and found.mend == f"chmod 700 {site.state_dir}"
    site.state_dir.rmdir()
    site.state_dir.write_text("")
    assert private.state_folder(site).status == "fail"


def test_the_metrics_port(make):
    assert private.metrics_port(make()).status == "ok"
    port = free_port()
    site = make(metrics_port=port)
    assert private.metrics_port(site).found == f"127.0.0.1:{port} is free"
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        taken = by_name([private.metrics_port(site)])["metrics port"]
        assert taken.status == "fail" and "another program" in taken.found
        lock = SiteLock(site)
        lock.acquire()
        try:
            assert private.metrics_port(site).found.endswith("in use by this site's client")
        finally:
            lock.release()
        assert private.metrics_port(site).status == "fail"


def test_the_sandbox_is_started_or_its_absence_told(make, tmp_path):
    found = by_name([private.sandbox(make(), opt_out="")])["sandbox"]
    assert {"bubblewrap starts": "ok", "Landlock and seccomp; no bubblewrap": "warn", "none": "fail"}[
        found.found
    ] == found.status
    opted = private.sandbox(make(), opt_out=OPT_OUT)
    assert opted.status != "fail"


def gpu(free: float = 70) -> machine.Gpu:
    return machine.Gpu(name="H200", free=int(free * GIB), total=140 * GIB)


@pytest.mark.parametrize(
    ("actors", "gpus", "seen", "status", "words"),
    [
        (2, 0.0, [], "ok", "none asked for"),
        (2, 1.0, [gpu(), gpu()], "ok", "70 of 140 GiB free"),
        (2, 1.0, [gpu()], "fail", "2 needed, torch sees 1"),
        (4, 0.5, [gpu(), gpu()], "ok", "H200"),
        (3, 0.6, [gpu(), gpu()], "fail", "3 needed"),  # each on a GPU of its own
        (2, 2.0, [gpu()] * 3, "fail", "4 needed"),
        (1, 1.5, [gpu()] * 3, "fail", "1.5 asked for"),
        (1, 0.0, [gpu()], "warn", "unused"),
        (1, 1.0, [gpu(0.5)], "warn", "1 nearly full"),
    ],
)
def test_gpus_against_the_site_file(actors, gpus, seen, status, words):
    found = by_name([machine.gpus(Resources(actors=actors, gpus=gpus), seen=seen)])["GPUs"]
    assert found.status == status and words in found.found


def test_cores_memory_and_disk_against_what_is_needed(tmp_path):
    plan = Resources(actors=4, threads=2)
    assert machine.processors(plan, cores=8).status == "ok"
    assert machine.processors(plan, cores=7).status == "warn"
    assert [machine.memory(plan, available=n * GIB).status for n in (4, 5, 8, 9)] == ["fail", "warn", "warn", "ok"]
    deep = tmp_path / "not" / "yet"
    assert machine.disk("disk", deep, least=1, ample=1).status == "ok"
    assert machine.disk("disk", deep, least=1, ample=HUGE).status == "warn"
    full = by_name([machine.disk("disk", deep, least=HUGE, ample=HUGE)])["disk"]
    assert full.status == "fail" and str(tmp_path) in full.found and "full disk" in full.mend
    assert 0 < machine.available_memory() < HUGE
    assert 1 <= machine.usable_cores() <= os.cpu_count()


def test_the_cache_needs_what_it_does_not_hold_yet(make):
    site = make(more="[cache]\nmax_gib = 2.0\n")
    assert machine.cache_room(site) == 2 * GIB
    site.cache_dir.mkdir(parents=True)
    with (site.cache_dir / "held").open("wb") as file:
        file.truncate(GIB // 2)  # sparse
    assert machine.cache_room(site) == 3 * GIB // 2


def test_pretrained_weights(make, tmp_path):
    for name in ("good", "pickled"):
        (tmp_path / name).mkdir()
    (tmp_path / "good" / "model.safetensors").write_bytes(b"0" * 2**20)
    (tmp_path / "pickled" / "pytorch_model.bin").write_bytes(b"0")
    (tmp_path / "file").write_bytes(b"0")
    site = make(more='[weights]\ngood = "good"\npickled = "pickled"\nfile = "file"\n')
    found = by_name(software.weights(site))
    assert found["weights good"].status == "ok" and "1 MiB" in found["weights good"].found
    assert "no .safetensors" in found["weights pickled"].found and "never loaded" in found["weights pickled"].mend
    assert found["weights file"].status == "fail"


def test_ray_and_the_time_zone(make):
    ray = software.ray()
    assert (ray.status, ray.found.endswith(", loopback only")) == ("ok", True)
    zone = software.time_zone(make())
    assert zone.status == "ok" and "UTC+0800" in zone.found


def test_all_of_it_on_this_machine(make, tls, capsys):
    with listening(tls) as address:
        site = make(address=address, ca=tls / "ca.crt")
        ensure_key(site)
        findings = doctor.examine(site)
    found = by_name(findings)
    assert len(found) == len(findings) >= 13
    assert not [f for f in findings if f.status == "fail" and not f.check.startswith(("disk", "memory", "sandbox"))]
    body = doctor.summary(site, findings)
    assert body["ok"] is all(f.status != "fail" for f in findings)
    assert {check["check"] for check in body["checks"]} == set(found)
    doctor.render([*findings, Finding(check="x", status="fail", found="[b]", mend="mend [b]")], Console(width=100))
    shown = capsys.readouterr().out
    assert "mend [b]" in shown and "Machine check" in shown
    assert "BEGIN" not in shown
