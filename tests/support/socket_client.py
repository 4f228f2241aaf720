"""Sockets of a process in a namespace and a cgroup, driven by JSON lines. Standard library only.

Each line of standard input is {"op", ...}; each line of standard output answers it, with {"errno"} where a call failed.

    tcp    address, port          connect, say hello, hear who answers, close → peer (getpeername), answer
    tally  address, port, count   so many times → answers, and how often each was given
    open   address, port          connect and keep it → number, peer
    talk   number                 say hello on it → answer
    udp    address, port          send one datagram, unconnected, and hear → source (recvfrom), answer
    cudp   address, port          the same connected → peer, source, answer
    uopen                         keep a UDP socket → number
    send   number, address, port  send a datagram from it and hear → source, answer
    turn   number, address, port  connect it, also anew → peer
    loose  number                 connect it to nothing
    peer   number                 → peer
    shut   number                 close what was kept
    bind   address, port          bind a socket and let it go
"""

import ctypes
import json
import socket
import sys

PATIENT_S = 5.0


def made(address: str, kind: int, mapped: bool, protocol: int = 0) -> socket.socket:
    """A socket for this address; a mapped one is IPv6 for an IPv4 address."""
    family = socket.AF_INET6 if ":" in address or mapped else socket.AF_INET
    one = socket.socket(family, kind, protocol)
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

    def tcp(self, address: str, port: int, mapped: bool = False, protocol: int = 0, mark: int = 0) -> dict[str, object]:
        """See above."""
        with made(address, socket.SOCK_STREAM, mapped, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
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
            data, source = one.recvfrom(2048)
            return {"peer": shown(one.getpeername()), "source": shown(source), "answer": data.decode()}

    def tally(self, address: str, port: int, count: int) -> dict[str, object]:
        """See above."""
        found: dict[str, int] = {}
        for _ in range(count):
            answer = str(self.tcp(address, port)["answer"])
            found[answer] = found.get(answer, 0) + 1
        return {"answers": found}

    def uopen(self, address: str = "", mapped: bool = False) -> dict[str, object]:
        """See above; the address only says of which family."""
        self.kept.append(made(address, socket.SOCK_DGRAM, mapped))
        return {"number": len(self.kept) - 1}

    def send(self, number: int, address: str, port: int, mapped: bool = False) -> dict[str, object]:
        """See above."""
        self.kept[number].sendto(b"hello", place(address, port, mapped))
        data, source = self.kept[number].recvfrom(2048)
        return {"source": shown(source), "answer": data.decode()}

    def turn(self, number: int, address: str, port: int, mapped: bool = False) -> dict[str, object]:
        """See above."""
        self.kept[number].connect(place(address, port, mapped))
        return {"peer": shown(self.kept[number].getpeername())}

    def loose(self, number: int) -> dict[str, object]:
        """See above: connect() with AF_UNSPEC, which Python has no word for."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.connect(self.kept[number].fileno(), bytes(16), 16):
            raise OSError(ctypes.get_errno(), "connect")
        return {}

    def peer(self, number: int) -> dict[str, object]:
        """See above."""
        return {"peer": shown(self.kept[number].getpeername())}

    def shut(self, number: int) -> dict[str, object]:
        """See above."""
        self.kept[number].close()
        return {}

    def bind(self, address: str, port: int, udp: bool = False) -> dict[str, object]:
        """See above."""
        kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
        with made(address, kind, mapped=address.startswith("::ffff:")) as one:
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
