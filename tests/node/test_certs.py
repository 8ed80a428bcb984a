"""Certificates: what is made, what holds in a real TLS handshake, and what is refused."""

from __future__ import annotations

import os
import socket
import ssl
import stat
import threading
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from syft import limits
from syft.cli import app
from syft.errors import BadCertificate
from syft.node import certs
from syft.node.certs import Bundle

pytestmark = pytest.mark.in_process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    certs.init(tmp_path / "ca")
    return tmp_path / "ca"


@pytest.fixture
def bob(folder: Path) -> Path:
    return certs.issue(folder, "bob", ["127.0.0.1", "Example.org"])


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def syft(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["certs", *args], env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    return result.exit_code, result.output


# ---- what is made ----


def test_the_authority_may_sign_certificates_and_nothing_else(folder: Path) -> None:
    ca = read(folder / "ca.pem")
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
    assert constraints.critical and constraints.value.ca and constraints.value.path_length == 0
    assert usage.critical and usage.value.key_cert_sign and not usage.value.digital_signature
    assert isinstance(ca.public_key(), ec.EllipticCurvePublicKey)
    days = ca.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=limits.AUTHORITY_DAYS - 1) < days < timedelta(days=limits.AUTHORITY_DAYS)


def test_a_certificate_names_its_party_and_its_hosts(bob: Path) -> None:
    cert = read(bob / "cert.pem")
    names = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert cert.subject.rfc4514_string() == "CN=bob"
    assert names.get_values_for_type(x509.DNSName) == ["bob.syft.internal", "example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certs.name_in((bob / "cert.pem").read_bytes()) == "bob"
    assert certs.name_in(cert.public_bytes(serialization.Encoding.DER)) == "bob"
    days = cert.not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=limits.CERTIFICATE_DAYS - 1) < days < timedelta(days=limits.CERTIFICATE_DAYS)


def test_a_strict_verifier_takes_the_chain_for_both_sides(folder: Path, bob: Path) -> None:
    ca, cert = read(folder / "ca.pem"), read(bob / "cert.pem")
    builder = PolicyBuilder().store(Store([ca]))
    builder.build_server_verifier(x509.DNSName("bob.syft.internal")).verify(cert, [])
    assert builder.build_client_verifier().verify(cert, []).subjects


def test_a_certificate_does_not_outlive_its_authority(folder: Path) -> None:
    bundle = certs.issue(folder, "bob", days=limits.AUTHORITY_DAYS * 2)
    assert Bundle.load(bundle).expires == read(folder / "ca.pem").not_valid_after_utc


def test_keys_are_readable_by_their_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        certs.init(tmp_path / "ca")
        bob = certs.issue(tmp_path / "ca", "bob")
    finally:
        os.umask(before)
    assert mode(tmp_path / "ca") == mode(bob) == 0o700
    assert mode(tmp_path / "ca" / "ca.key.pem") == mode(bob / "key.pem") == 0o600
    assert sorted(path.name for path in bob.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]


def test_a_key_is_private_from_its_first_byte_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    monkeypatch.setattr(os, "fsync", lambda fd: modes.append(stat.S_IMODE(os.fstat(fd).st_mode)))
    certs.issue(folder, "bob")
    assert modes == [0o600] * 3


# ---- TLS and gRPC take it ----


def handshake(server: Path, client: Path, expected: str) -> tuple[str, str]:
    """Shake hands over TLS; return whom each side found at the other."""
    listening = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=server / "ca.pem")
    listening.load_cert_chain(server / "cert.pem", server / "key.pem")
    listening.verify_mode = ssl.CERT_REQUIRED
    dialling = ssl.create_default_context(cafile=client / "ca.pem")
    dialling.load_cert_chain(client / "cert.pem", client / "key.pem")
    here, there = socket.socketpair()
    found: list[str] = []

    def serve() -> None:
        try:
            with listening.wrap_socket(there, server_side=True) as tls:
                found.append(certs.name_in(tls.getpeercert(binary_form=True) or b""))
                tls.send(b"!")
        except OSError:
            there.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with dialling.wrap_socket(here, server_hostname=expected) as tls:
            tls.recv(1)
            return found[0], certs.name_in(tls.getpeercert(binary_form=True) or b"")
    finally:
        here.close()
        thread.join()


def test_both_sides_of_tls_find_each_others_names(folder: Path, bob: Path) -> None:
    carol = certs.issue(folder, "carol")
    for expected in ("bob.syft.internal", "127.0.0.1", "example.org"):
        assert handshake(bob, carol, expected) == ("carol", "bob")


def test_tls_refuses_another_name_another_authority_and_an_expired_certificate(
    folder: Path, bob: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carol = certs.issue(folder, "carol")
    with pytest.raises(ssl.SSLCertVerificationError, match="alice"):
        handshake(bob, carol, certs.tls_name("alice"))
    certs.init(tmp_path / "other")
    stranger = certs.issue(tmp_path / "other", "bob")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"(?i)certificate"):
        handshake(stranger, carol, certs.tls_name("bob"))
    old = overdue(folder, "dave", monkeypatch)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(old, carol, certs.tls_name("dave"))


def test_a_host_never_counts_as_a_name(folder: Path) -> None:
    carol, mallory = certs.issue(folder, "carol"), certs.issue(folder, "mallory", ["bob"])
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(mallory, carol, certs.tls_name("bob"))
    assert certs.name_in((mallory / "cert.pem").read_bytes()) == "mallory"


@pytest.mark.parametrize("host", ["bob.syft.internal", "BOB.SYFT.INTERNAL", "*.org", "a:1", "", "-a", "a b", "a" * 254])
def test_hosts_that_are_none_or_would_be_names_are_refused(folder: Path, host: str) -> None:
    with pytest.raises(BadCertificate, match="neither an IP address nor the name of a host"):
        certs.issue(folder, "mallory", [host])
    assert not (folder / "mallory").exists()


def test_grpc_takes_the_certificates_and_tells_the_name(folder: Path) -> None:
    bob = Bundle.load(certs.issue(folder, "bob"))
    carol = Bundle.load(certs.issue(folder, "carol_1.b-2"))
    told: list[bytes] = []

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        told.extend(context.auth_context()["x509_pem_cert"])
        return request

    server = grpc.server(futures.ThreadPoolExecutor(1))
    handler = {"Say": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_registered_method_handlers("a.B", handler)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", handler),))
    credentials = grpc.ssl_server_credentials([(bob.key, bob.cert)], bob.ca, require_client_auth=True)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        dial = grpc.ssl_channel_credentials(carol.ca, carol.key, carol.cert)
        for name, fails in (("bob", False), ("alice", True)):
            options = (("grpc.ssl_target_name_override", certs.tls_name(name)),)
            with grpc.secure_channel(f"127.0.0.1:{port}", dial, options) as channel:
                call = channel.unary_unary("/a.B/Say")
                if fails:
                    with pytest.raises(grpc.RpcError):
                        call(b"x", timeout=10)
                else:
                    assert call(b"x", timeout=10) == b"x"
    finally:
        server.stop(None).wait()
    assert [certs.name_in(pem) for pem in told] == ["carol_1.b-2"]


# ---- names ----


@given(st.from_regex(limits.NODE_NAME, fullmatch=True).filter(lambda name: len(name) <= limits.MAX_NODE_NAME_LENGTH))
def test_names_of_the_grammar_are_taken(name: str) -> None:
    assert certs.check_name(name) == name
    assert "/" not in name and name not in (".", "..")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "Bob", "a b", "a..b", "-a", "a.", "é", "a\n", "a" * 64])
def test_other_names_are_refused(folder: Path, name: str) -> None:
    before = sorted(folder.parent.rglob("*"))
    with pytest.raises(BadCertificate, match="cannot be a name"):
        certs.issue(folder, name)
    with pytest.raises(BadCertificate, match="cannot be a name"):
        certs.tls_name(name)
    assert sorted(folder.parent.rglob("*")) == before


# ---- nothing is overwritten unasked; renewals ----


def test_nothing_is_replaced_without_force(folder: Path, bob: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.pem")}
    with pytest.raises(BadCertificate, match=r"ca.pem exists"):
        certs.init(folder)
    with pytest.raises(BadCertificate, match="exists"):
        certs.issue(folder, "bob")
    assert {path: path.read_bytes() for path in folder.rglob("*.pem")} == before
    certs.issue(folder, "bob", force=True)
    assert (bob / "key.pem").read_bytes() != before[bob / "key.pem"]
    assert Bundle.load(bob).name == "bob"


def test_what_a_replaced_authority_issued_is_void(folder: Path, bob: Path) -> None:
    certs.init(folder, force=True)
    (bob / "ca.pem").write_bytes((folder / "ca.pem").read_bytes())
    with pytest.raises(BadCertificate, match="not issued by the authority"):
        Bundle.load(bob)
    with pytest.raises(BadCertificate, match="not issued by the authority"):
        certs.renew(folder, "bob")


def overdue(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Issue a certificate as it would have been two days ago, for one day."""
    with monkeypatch.context() as patch:
        patch.setattr(certs, "datetime", clock(datetime.now(UTC) - timedelta(days=2)))
        return certs.issue(folder, name, ["127.0.0.1"], days=1)


def clock(now: datetime) -> type[datetime]:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:
            return now

    return Clock


def test_renewal_keeps_key_and_hosts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bob = overdue(folder, "bob", monkeypatch)
    with pytest.raises(BadCertificate, match=r"cert.pem expired on \d{4}-.*\n.*certs renew"):
        Bundle.load(bob)
    old, key = read(bob / "cert.pem"), (bob / "key.pem").read_bytes()
    assert certs.renew(folder, "bob") == bob
    new = read(bob / "cert.pem")
    assert (bob / "key.pem").read_bytes() == key
    names = [c.extensions.get_extension_for_class(x509.SubjectAlternativeName).value for c in (old, new)]
    assert names[0] == names[1] and old.serial_number != new.serial_number
    assert Bundle.load(bob).expires == new.not_valid_after_utc > datetime.now(UTC) + timedelta(days=300)


def test_a_bundle_moved_to_another_name_is_not_renewed(folder: Path, bob: Path) -> None:
    bob.rename(folder / "alice")
    with pytest.raises(BadCertificate, match="not a bundle of 'alice'"):
        certs.renew(folder, "alice")


def test_an_expired_authority_issues_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(certs, "datetime", clock(datetime.now(UTC) - timedelta(days=limits.AUTHORITY_DAYS + 1)))
        certs.init(tmp_path)
    with pytest.raises(BadCertificate, match="authority has expired"):
        certs.issue(tmp_path, "bob")


# ---- loading ----


def test_a_bundle_holds_what_its_files_hold_and_does_not_show_its_key(bob: Path) -> None:
    bundle = Bundle.load(str(bob))
    assert bundle.name == "bob"
    assert (bundle.ca, bundle.cert, bundle.key) == tuple(
        (bob / file).read_bytes() for file in ("ca.pem", "cert.pem", "key.pem")
    )
    assert "PRIVATE" not in repr(bundle)


@pytest.mark.parametrize("file", ["ca.pem", "cert.pem", "key.pem"])
def test_a_missing_or_spoilt_file_is_named(bob: Path, file: str) -> None:
    (bob / file).write_bytes(b"-----BEGIN nothing")
    with pytest.raises(BadCertificate, match=f"{file} is not a (certificate|private key) in PEM"):
        Bundle.load(bob)
    (bob / file).unlink()
    with pytest.raises(BadCertificate, match=f"{file} cannot be read: No such file"):
        Bundle.load(bob)


def test_a_key_that_others_can_read_is_refused(bob: Path) -> None:
    (bob / "key.pem").chmod(0o640)
    with pytest.raises(BadCertificate, match=r"readable by others than its owner\n.*chmod 600"):
        Bundle.load(bob)


def test_a_key_of_another_certificate_is_refused(folder: Path, bob: Path) -> None:
    alice = certs.issue(folder, "alice")
    (bob / "key.pem").write_bytes((alice / "key.pem").read_bytes())
    with pytest.raises(BadCertificate, match=r"key.pem is not the key of .*cert.pem"):
        Bundle.load(bob)


def test_a_certificate_of_another_authority_is_refused(tmp_path: Path, bob: Path) -> None:
    certs.init(tmp_path / "other")
    (bob / "ca.pem").write_bytes((tmp_path / "other" / "ca.pem").read_bytes())
    with pytest.raises(BadCertificate, match=r"cert.pem was not issued by the authority beside it"):
        Bundle.load(bob)


def test_a_party_is_no_authority(folder: Path, bob: Path) -> None:
    """Bob's key must not be good for making an alice."""
    key = serialization.load_pem_private_key((bob / "key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    forged = certs._sign("alice", [], key.public_key(), 1, read(bob / "cert.pem"), key)
    (bob / "ca.pem").write_bytes((bob / "cert.pem").read_bytes())
    (bob / "cert.pem").write_bytes(forged)
    with pytest.raises(BadCertificate, match="not of a certificate authority"):
        Bundle.load(bob)
    ca = read(folder / "ca.pem")
    verifier = PolicyBuilder().store(Store([ca])).build_server_verifier(x509.DNSName("alice.syft.internal"))
    with pytest.raises(x509.verification.VerificationError):
        verifier.verify(x509.load_pem_x509_certificate(forged), [read(bob / "ca.pem")])


def test_a_self_signed_certificate_is_refused(bob: Path) -> None:
    key = serialization.load_pem_private_key((bob / "key.pem").read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    cert = read(bob / "cert.pem")
    (bob / "cert.pem").write_bytes(certs._sign("bob", [], key.public_key(), 1, cert, key))
    with pytest.raises(BadCertificate, match="not issued by the authority"):
        Bundle.load(bob)


def test_a_certificate_of_tomorrow_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(certs, "datetime", clock(datetime.now(UTC) + timedelta(days=1)))
        bob = certs.issue(folder, "bob")
    with pytest.raises(BadCertificate, match="does not hold before"):
        Bundle.load(bob)


def test_other_kinds_of_keys_are_refused(bob: Path) -> None:
    rsa_key = rsa.generate_private_key(65537, 2048)
    pem = rsa_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (bob / "key.pem").write_bytes(pem)
    with pytest.raises(BadCertificate, match="not a key of an elliptic curve"):
        Bundle.load(bob)


@pytest.mark.parametrize(
    ("common_names", "hosts"),
    [
        (["bob"], []),
        (["bob"], ["example.org"]),
        (["bob"], ["alice.syft.internal"]),
        (["bob"], ["bob.syft.internal", "alice.syft.internal"]),
        (["bob", "alice"], ["bob.syft.internal"]),
        (["Bob"], ["Bob.syft.internal"]),
        ([], [".syft.internal"]),
    ],
)
def test_a_certificate_that_does_not_name_exactly_one_party_names_nobody(
    common_names: list[str], hosts: list[str]
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n) for n in common_names])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(h) for h in hosts]), critical=False)
    cert = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    with pytest.raises(BadCertificate, match=r"names nobody|exactly one party|cannot be a name"):
        certs.name_in(cert)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_certificate_are_refused(content: bytes) -> None:
    with pytest.raises(BadCertificate):
        certs.name_in(content)


# ---- the command ----


def test_the_command_makes_and_renews(tmp_path: Path) -> None:
    ca = tmp_path / "deep" / "ca"
    assert syft("init", str(ca))[0] == 0
    code, text = syft("issue", str(ca), "bob", "--host", "127.0.0.1", "--host", "example.org", "--days", "7")
    assert code == 0 and f"{ca / 'bob'} is all that bob needs" in text
    bundle = Bundle.load(ca / "bob")
    assert bundle.expires < datetime.now(UTC) + timedelta(days=7, minutes=1)
    assert handshake(ca / "bob", ca / "bob", "example.org") == ("bob", "bob")
    assert syft("renew", str(ca), "bob")[0] == 0
    assert Bundle.load(ca / "bob").expires > bundle.expires


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("issue", "{}", "Bob"), "syft: 'Bob' cannot be a name"),
        (("issue", "{}/none", "bob"), "there is no certificate authority in"),
        (("init", "{}"), "ca.pem exists"),
        (("init", "{}/ca.pem"), "cannot be made"),
        (("renew", "{}", "bob"), "cert.pem cannot be read"),
        (("issue", "{}", "ca.pem"), "cannot be made"),
    ],
)
def test_the_command_refuses_in_words(folder: Path, args: tuple[str, ...], told: str) -> None:
    code, text = syft(*(arg.format(folder) for arg in args))
    assert code == 1
    assert told in text and "Traceback" not in text


def test_a_folder_that_is_no_bundle_is_told_from_one_and_nothing_dangerous_is_advised(
    folder: Path, bob: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for wrong, what, mend in (
        (folder, f"{folder} is the folder of an authority: there is no cert.pem in it", f"that is yours: {bob}"),
        (tmp_path / "none", f"there is no folder {tmp_path / 'none'}", "ask who keeps the authority"),
        (bob / "cert.pem", "there is no folder", "the whole folder"),
        (empty, "is no bundle: there is no cert.pem in it", "the whole folder that syft certs issue made"),
        (folder.parent, "is no bundle", "the whole folder"),
    ):
        with pytest.raises(BadCertificate) as refused:
            Bundle.load(wrong)
        assert what in refused.value.what and mend in refused.value.mend and "--force" not in refused.value.mend
