"""Certificates that cannot be used."""

import ssl
import subprocess
from pathlib import Path

import pytest

from cplane.transport.tls import BadCertificate, client_context, server_context


def test_a_file_that_does_not_exist_is_named(tmp_path: Path):
    with pytest.raises(BadCertificate, match=r"no\.pem.*No such file"):
        server_context(str(tmp_path / "no.pem"), str(tmp_path / "no.key"))


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path):
    path = tmp_path / "x.pem"
    path.write_text("nothing")
    with pytest.raises(BadCertificate, match="does not fit the key"):
        server_context(str(path), str(path))
    with pytest.raises(BadCertificate, match="no certificate authority"):
        client_context(str(path))


def test_a_client_trusts_the_authorities_that_it_is_given_and_no_others(tmp_path: Path):
    made = [_authority(tmp_path, name) for name in ("one", "two")]
    assert len(client_context(made[0]).get_ca_certs()) == 1
    both = client_context(authorities=made)
    assert [dict(part[0] for part in one["subject"])["commonName"] for one in both.get_ca_certs()] == ["one", "two"]
    assert both.check_hostname
    insecure = client_context(insecure=True)
    assert (insecure.check_hostname, insecure.verify_mode) == (False, ssl.CERT_NONE)


def _authority(folder: Path, name: str) -> str:
    """A certificate that is its own authority: its path."""
    certificate = str(folder / f"{name}.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(folder / "key.pem"), "-out", certificate, "-days", "2", "-subj", f"/CN={name}"]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")
    return certificate
