"""Sockets of a process in a namespace and a cgroup, driven by JSON lines. Standard library only.

Each line of standard input is {"op", ...}; each line of standard output answers it, with {"errno"} where a call failed.

    tcp    address, port          connect, say hello, hear who answers, close → peer (getpeername), answer
    open   address, port          connect and keep it → number, peer
    talk   number                 say hello on it → answer
    udp    address, port          send one datagram, unconnected, and hear → source (recvfrom), answer
    cudp   address, port          the same connected → peer, answer
    bind   address, port          bind a TCP socket and let it go
"""

import json
import socket
import sys

PATIENT_S = 5.0


def made(address: str, kind: int, mapped: bool) -> socket.socket:
    """A socket for this address; a mapped one is IPv6 for an IPv4 address."""
    family = socket.AF_INET6 if ":" in address or mapped else socket.AF_INET
    one = socket.socket(family, kind)
    one.settimeout(PATIENT_S)
    return one


def place(address: str, port: int, mapped: bool) -> tuple[str, int]:
    """What the call names."""
    return (f"::ffff:{address}" if mapped else address, port)


def shown(name: tuple[object, ...]) -> str:
    """An address and a port."""
    return f"{name[0]} {name[1]}"


class Client:
    """Answers one line after another."""

    def __init__(self) -> None:
        self.kept: list[socket.socket] = []

    def tcp(self, address: str, port: int, mapped: bool = False) -> dict[str, object]:
        """See above."""
        with made(address, socket.SOCK_STREAM, mapped) as one:
            one.connect(place(address, port, mapped))
            one.sendall(b"hello")
            return {"peer": shown(one.getpeername()), "answer": one.recv(2048).decode()}

    def open(self, address: str, port: int, mapped: bool = False) -> dict[str, object]:
        """See above."""
        one = made(address, socket.SOCK_STREAM, mapped)
        one.connect(place(address, port, mapped))
        self.kept.append(one)
        return {"number": len(self.kept) - 1, "peer": shown(one.getpeername())}

    def talk(self, number: int) -> dict[str, object]:
        """See above."""
        self.kept[number].sendall(b"hello")
        return {"answer": self.kept[number].recv(2048).decode()}

    def udp(self, address: str, port: int, mapped: bool = False) -> dict[str, object]:
        """See above."""
        with made(address, socket.SOCK_DGRAM, mapped) as one:
            one.sendto(b"hello", place(address, port, mapped))
            data, source = one.recvfrom(2048)
            return {"source": shown(source), "answer": data.decode()}

    def cudp(self, address: str, port: int, mapped: bool = False) -> dict[str, object]:
        """See above."""
        with made(address, socket.SOCK_DGRAM, mapped) as one:
            one.connect(place(address, port, mapped))
            one.send(b"hello")
            return {"peer": shown(one.getpeername()), "answer": one.recv(2048).decode()}

    def bind(self, address: str, port: int) -> dict[str, object]:
        """See above."""
        with made(address, socket.SOCK_STREAM, mapped=False) as one:
            one.bind((address, port))
        return {}


def main() -> None:
    """Serve standard input to its end."""
    client = Client()
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(client, asked.pop("op"))(**asked)
        except OSError as error:
            answer = {"errno": error.errno, "error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
