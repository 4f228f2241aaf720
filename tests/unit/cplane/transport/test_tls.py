"""Certificates that cannot be used."""

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
