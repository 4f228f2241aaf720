"""Key pairs that sign checkpoints: ed25519 in PEM files, the private one for its owner only."""

import os
from pathlib import Path
from typing import Final

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

from cplane.errors import Rejected
from cplane.timetravel.checkpoint import Checkpoint, Signature

_KEY_BYTES_MAX: Final = 16 << 10


class BadKey(Rejected):
    """A file is no key that can be used, or cannot be made one."""

    code = "checkpoint.bad_key"

    def __init__(self, path: str, reason: str) -> None:
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def generate(path: str) -> str:
    """A new pair is in the file and in another one with `.pub` behind its name, which is returned. Raises BadKey.

    Nothing is written over another file.
    """
    key, public = Ed25519PrivateKey.generate(), f"{path}.pub"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    if os.path.lexists(public):
        raise BadKey(public, "it is there already: nothing is written over it")
    _write(path, private, 0o600)
    _write(public, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), 0o644)
    return public


def sign(checkpoint: Checkpoint, path: str) -> Signature:
    """Its signature by the private key in the file. Raises BadKey."""
    try:
        key = load_pem_private_key(_read(path), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKey(path, "it has no private key in PEM without a password; make one with --generate-key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadKey(path, "its key is not one of ed25519; make one with --generate-key")
    return Signature(key.public_key().public_bytes_raw(), key.sign(checkpoint.text().encode()))


def public_key(path: str) -> bytes:
    """The public key in the file. Raises BadKey."""
    try:
        key = load_pem_public_key(_read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadKey(path, "it has no public key in PEM; it is the file that --generate-key ends with .pub") from error
    if not isinstance(key, Ed25519PublicKey):
        raise BadKey(path, "its key is not one of ed25519")
    return key.public_bytes_raw()


def is_signed(checkpoint: Checkpoint, signature: Signature) -> bool:
    """Whether the signature is one of this checkpoint by the key that it names."""
    try:
        Ed25519PublicKey.from_public_bytes(signature.key).verify(signature.signature, checkpoint.text().encode())
    except InvalidSignature:
        return False
    return True


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_KEY_BYTES_MAX)
    except OSError as error:
        raise BadKey(path, f"it cannot be read: {error.strerror}") from error


def _write(path: str, data: bytes, mode: int) -> None:
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(handle, "wb") as file:
            file.write(data)
    except FileExistsError as error:
        raise BadKey(path, "it is there already: nothing is written over it") from error
    except OSError as error:
        raise BadKey(path, f"it cannot be written: {error.strerror}") from error
