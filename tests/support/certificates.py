"""Certificates for tests: each its own authority, and one set of files that a server follows."""

import os
import shutil
import subprocess
from pathlib import Path
from ssl import SSLContext

import pytest

from cplane.transport.tls import BadCertificate, ReloadingContext, client_context


class Certificates:
    """A folder with certificates, each its own authority, and one set of files that a server follows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cert, self.key, self.ca = (str(folder / name) for name in ("tls.crt", "tls.key", "ca.crt"))
        self.failures: list[BadCertificate] = []

    def make(self, name: str) -> None:
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
        command += ["-keyout", self.of(name, "key"), "-out", self.of(name, "crt"), "-days", "2", "-subj", f"/CN={name}"]
        command += ["-addext", "subjectAltName=IP:127.0.0.1"]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("openssl is not installed")

    def of(self, name: str, kind: str) -> str:
        return str(self.folder / f"{name}.{kind}")

    def put(self, target: str, source: str) -> None:
        """As everybody should write files, and kubelet does: beside them, and then in their place."""
        shutil.copy(source, f"{target}.new")
        os.replace(f"{target}.new", target)

    def serve_as(self, name: str) -> None:
        self.put(self.cert, self.of(name, "crt"))
        self.put(self.key, self.of(name, "key"))

    def context(self, *, clients: bool = False) -> ReloadingContext:
        return ReloadingContext.of(self.cert, self.key, self.ca if clients else "", failed=self.failures.append)

    def trusting(self, name: str, own: str = "") -> SSLContext:
        return client_context(self.of(name, "crt"), *((self.of(own, "crt"), self.of(own, "key")) if own else ()))
