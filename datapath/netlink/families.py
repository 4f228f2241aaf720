"""What an address's family is in the kernel's numbers."""

import socket


def family_of(address: str) -> int:
    """AF_INET or AF_INET6."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def bits_of(address: str) -> int:
    """Length of the prefix that holds this address alone."""
    return 128 if ":" in address else 32


def everything(address: str) -> str:
    """The prefix of all addresses of the same family."""
    return "::/0" if ":" in address else "0.0.0.0/0"
