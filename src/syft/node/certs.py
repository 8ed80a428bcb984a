"""Who is who between machines: a private certificate authority and the certificates it issues.

A name stands in its certificate twice: as the common name, for people, and, under a suffix that no
host can have, as a DNS name, so that TLS itself checks that the other side is who it should be. The
hosts at which a worker answers stand beside it; a host never counts as a name.

A folder that ``init`` made holds ``ca.pem`` and ``ca.key.pem``; each ``issue`` adds a folder
NAME with ``ca.pem``, ``cert.pem`` and ``key.pem``, which is all that NAME needs.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .. import limits
from ..errors import BadCertificate

AUTHORITY: Final = "ca.pem"
AUTHORITY_KEY: Final = "ca.key.pem"
CERTIFICATE: Final = "cert.pem"
KEY: Final = "key.pem"

_SUFFIX = ".syft.internal"
_PRIVATE_FILE = 0o600
_PRIVATE_FOLDER = 0o700
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_HOST = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9][A-Za-z0-9-]{0,62})*")

_PrivateKey = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Bundle:
    """What one party needs to prove its name and to check others': all PEM, found valid when loaded."""

    name: str
    ca: bytes
    cert: bytes
    key: bytes = field(repr=False)
    expires: datetime

    @classmethod
    def load(cls, folder: Path | str) -> Bundle:
        """Read and check the bundle in ``folder``.

        Raises BadCertificate: a file is missing or unreadable, the key is readable by others or not
        the certificate's, the certificate is of another authority, names nobody, or does not hold now.
        """
        folder = Path(folder)
        _check_is_bundle(folder)
        ca_pem, cert_pem = (_read(folder / file) for file in (AUTHORITY, CERTIFICATE))
        key_pem = _read_private(folder / KEY)
        ca, cert = _parse(ca_pem, folder / AUTHORITY), _parse(cert_pem, folder / CERTIFICATE)
        _check_issued(cert, ca, folder / CERTIFICATE)
        for certificate, file in ((ca, AUTHORITY), (cert, CERTIFICATE)):
            _check_dates(certificate, folder / file)
        if _parse_key(key_pem, folder / KEY).public_key() != cert.public_key():
            raise BadCertificate(f"{folder / KEY} is not the key of {folder / CERTIFICATE}", mend=_REISSUE)
        return cls(name_in(cert_pem), ca_pem, cert_pem, key_pem, cert.not_valid_after_utc)


def tls_name(name: str) -> str:
    """Return the host name under which TLS checks that the other side is ``name``. Raises BadCertificate."""
    return check_name(name) + _SUFFIX


def name_in(certificate: bytes) -> str:
    """Return whose certificate this is, PEM or DER, its signature being checked already. Raises BadCertificate."""
    try:
        parsed = (
            x509.load_pem_x509_certificate(certificate)
            if certificate.startswith(b"-----")
            else x509.load_der_x509_certificate(certificate)
        )
        names = [n.value for n in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        hosts = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        told = [host for host in hosts.get_values_for_type(x509.DNSName) if host.endswith(_SUFFIX)]
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension) as error:
        raise BadCertificate(f"the certificate names nobody: {error}", mend=_REISSUE) from error
    if len(names) != 1 or not isinstance(names[0], str) or told != [names[0] + _SUFFIX]:
        raise BadCertificate("the certificate does not name exactly one party", mend=_REISSUE)
    return check_name(names[0])


def check_name(name: str) -> str:
    """Return ``name`` if a worker or person may be called so. Raises BadCertificate."""
    if len(name) > limits.MAX_NODE_NAME_LENGTH or not re.fullmatch(limits.NODE_NAME, name):
        raise BadCertificate(
            f"{name!r} cannot be a name in a certificate",
            mend=f"Use up to {limits.MAX_NODE_NAME_LENGTH} small letters and digits, with single . _ or - between.",
        )
    return name


_REISSUE = "Take the whole folder that syft certs issue made; or ask who keeps the authority for another bundle."


# ---- making ----------------------------------------------------------------------------------


def init(folder: Path, *, force: bool = False) -> None:
    """Make a certificate authority in ``folder``. With ``force`` it takes the place of one that is there.

    Raises BadCertificate: there is one, or the folder cannot be written.
    """
    _make_folder(folder)
    _refuse_existing((folder / AUTHORITY, folder / AUTHORITY_KEY), force)
    key = ec.generate_private_key(ec.SECP256R1())
    serial = x509.random_serial_number()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"syft authority {serial:x}"[:_MAX_COMMON_NAME])])
    certificate = (
        _dated(x509.CertificateBuilder(), limits.AUTHORITY_DAYS)
        .serial_number(serial)
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(is_authority=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    _write(folder / AUTHORITY_KEY, _key_bytes(key))
    _write(folder / AUTHORITY, certificate.public_bytes(serialization.Encoding.PEM))


def issue(
    folder: Path, name: str, hosts: Sequence[str] = (), *, days: int = limits.CERTIFICATE_DAYS, force: bool = False
) -> Path:
    """Make the bundle of ``name``, who may answer at ``hosts``, in a folder of that name; return the folder.

    Its certificate holds for ``days``, but not longer than the authority. With ``force`` it takes the
    place of a bundle that is there.

    Raises BadCertificate: no authority in ``folder``, a name or host that cannot be, a bundle that is
    there, or a folder that cannot be written.
    """
    check_name(name)
    others = [_host(host) for host in dict.fromkeys(hosts)]
    authority, authority_key = _authority(folder)
    bundle = folder / name
    _make_folder(bundle)
    files = bundle / AUTHORITY, bundle / CERTIFICATE, bundle / KEY
    _refuse_existing(files, force)
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _sign(name, others, key.public_key(), days, authority, authority_key)
    _write(bundle / KEY, _key_bytes(key))
    _write(bundle / CERTIFICATE, certificate)
    _write(bundle / AUTHORITY, authority.public_bytes(serialization.Encoding.PEM))
    return bundle


def renew(folder: Path, name: str, *, days: int = limits.CERTIFICATE_DAYS) -> Path:
    """Give the bundle of ``name`` a new certificate for its key and hosts; return its folder.

    Only the certificate's file is replaced, at once, so that a node that starts meanwhile finds the
    old or the new. Raises BadCertificate as :func:`issue` does, or if there is no bundle of this authority.
    """
    authority, authority_key = _authority(folder)
    bundle = folder / check_name(name)
    old_pem = _read(bundle / CERTIFICATE)
    old = _parse(old_pem, bundle / CERTIFICATE)
    _check_issued(old, authority, bundle / CERTIFICATE)
    key = _parse_key(_read_private(bundle / KEY), bundle / KEY)
    if name_in(old_pem) != name or key.public_key() != old.public_key():
        raise BadCertificate(f"{bundle} is not a bundle of {name!r}", mend=_REISSUE)
    names = old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    hosts = [host for host in names if host != x509.DNSName(tls_name(name))]
    _write(bundle / CERTIFICATE, _sign(name, hosts, key.public_key(), days, authority, authority_key))
    return bundle


_MAX_COMMON_NAME = 64


def _sign(
    name: str,
    hosts: Sequence[x509.GeneralName],
    key: ec.EllipticCurvePublicKey,
    days: int,
    authority: x509.Certificate,
    authority_key: _PrivateKey,
) -> bytes:
    certificate = (
        _dated(x509.CertificateBuilder(), days, authority.not_valid_after_utc)
        .serial_number(x509.random_serial_number())
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.subject)
        .public_key(key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(is_authority=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(tls_name(name)), *hosts]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)


def _dated(builder: x509.CertificateBuilder, days: int, latest: datetime | None = None) -> x509.CertificateBuilder:
    if days < 1:
        raise BadCertificate(f"a certificate cannot hold for {days} days", mend="Give at least one day.")
    now = datetime.now(UTC)
    end = now + timedelta(days=days)
    if latest is not None:
        if latest <= now:
            raise BadCertificate("the authority has expired", mend="Make another, in another folder: syft certs init")
        end = min(end, latest)
    start = now - timedelta(minutes=limits.MAX_CLOCK_SKEW_MINUTES)
    return builder.not_valid_before(start).not_valid_after(end)


def _key_usage(*, is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not is_authority,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not _HOST.fullmatch(host) or host.lower().endswith(_SUFFIX):
        raise BadCertificate(
            f"{host!r} is neither an IP address nor the name of a host",
            mend="Give it without a port and without wildcards, such as 127.0.0.1 or example.org.",
        )
    return x509.DNSName(host.lower())


def _authority(folder: Path) -> tuple[x509.Certificate, _PrivateKey]:
    if not (folder / AUTHORITY).exists():
        raise BadCertificate(
            f"there is no certificate authority in {folder}", mend=f"Make one: syft certs init {folder}"
        )
    certificate = _parse(_read(folder / AUTHORITY), folder / AUTHORITY)
    key = _parse_key(_read_private(folder / AUTHORITY_KEY), folder / AUTHORITY_KEY)
    if key.public_key() != certificate.public_key():
        raise BadCertificate(
            f"{folder / AUTHORITY_KEY} is not the key of {folder / AUTHORITY}",
            mend="Put back the two that belong together.",
        )
    return certificate, key


# ---- checking --------------------------------------------------------------------------------


def _parse(pem: bytes, path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise BadCertificate(f"{path} is not a certificate in PEM", mend=_REISSUE) from error


def _parse_key(pem: bytes, path: Path) -> _PrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadCertificate(f"{path} is not a private key in PEM, without a password", mend=_REISSUE) from error
    if not isinstance(key, _PrivateKey):
        raise BadCertificate(f"{path} is not a key of an elliptic curve", mend=_REISSUE)
    return key


def _check_is_bundle(folder: Path) -> None:
    """Raise BadCertificate, saying which folder is meant, if this is none of a bundle."""
    if (folder / CERTIFICATE).exists() or (folder / KEY).exists():
        return
    if not folder.is_dir():
        raise BadCertificate(f"there is no folder {folder}", mend=_REISSUE)
    bundles = sorted(str(path.parent) for path in folder.glob(f"*/{CERTIFICATE}"))
    what = "the folder of an authority" if (folder / AUTHORITY_KEY).exists() else "no bundle"
    which = f"Take the one of them that is yours: {', '.join(bundles)}" if bundles else _REISSUE
    raise BadCertificate(f"{folder} is {what}: there is no {CERTIFICATE} in it", mend=which)


def _check_issued(cert: x509.Certificate, ca: x509.Certificate, path: Path) -> None:
    try:
        constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
        if not constraints.ca:
            raise BadCertificate(f"{path.parent / AUTHORITY} is not of a certificate authority", mend=_REISSUE)
        cert.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise BadCertificate(f"{path} was not issued by the authority beside it", mend=_REISSUE) from error


def _check_dates(certificate: x509.Certificate, path: Path) -> None:
    now, start, end = datetime.now(UTC), certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= end:
        raise BadCertificate(f"{path} expired on {end:%Y-%m-%d %H:%M} UTC", mend="Renew it: syft certs renew DIR NAME")
    if now < start:
        raise BadCertificate(f"{path} does not hold before {start:%Y-%m-%d %H:%M} UTC", mend="Check this clock.")


# ---- files -----------------------------------------------------------------------------------


def _key_bytes(key: _PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _make_folder(folder: Path) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=_PRIVATE_FOLDER, exist_ok=True)
    except OSError as error:
        raise BadCertificate(f"the folder {folder} cannot be made: {error.strerror}") from error


def _refuse_existing(files: Sequence[Path], force: bool) -> None:
    for path in files:
        if not force and path.exists():
            raise BadCertificate(f"{path} exists", mend="To replace it, and lose what it is good for, say --force.")


def _write(path: Path, content: bytes) -> None:
    """Put a file in its place at once, never readable by others, not even before it is whole."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE_FILE), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise BadCertificate(f"{path} cannot be written: {error.strerror}") from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadCertificate(f"{path} cannot be read: {error.strerror}", mend=_REISSUE) from error


def _read_private(path: Path) -> bytes:
    content = _read(path)
    if os.name == "posix" and path.stat().st_mode & _OTHERS:
        raise BadCertificate(f"{path} is readable by others than its owner", mend=f"Run: chmod 600 {path}")
    return content
