"""The DNS proxy: questions that a client asks through it, and past it, of the same server."""

import os
import select
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from typing import Final

from msgspec import msgpack
from report import Result, WrongError, at_least, at_most, spread
from rig import Rig

from cplane.domain.policy.dns import DnsRule
from cplane.domain.verdict import Direction
from cplane.proxy.channel import DnsTerm, PutDns
from tests.support.dnsnet import PORT, SERVER4, DnsNet, dns_net

QUESTIONS: Final = 10_000
ASKED_AT_ONCE: Final = 64
ALONE: Final = 2_000
ROUNDS: Final = 5
_DIRECT: Final = 5353
"""A port that nothing redirects; the same server answers there."""
_ASKED: Final = bytes.fromhex("0000010000010000000000000161076578616d706c650000010001")
_DENIED: Final = bytes.fromhex("0000010000010000000000000161056f746865720000010001")


def measure(rig: Rig) -> Iterator[Result]:
    """Both ways in turns. Raises WrongError."""
    folder = Path(rig.folder) / "l7-dns"
    folder.mkdir(parents=True, exist_ok=True)
    with dns_net(folder, server=(str(Path(__file__)),)) as net:
        rules = (DnsRule("", "*.example"),)
        net.rules.write_bytes(msgpack.encode([PutDns(PORT, Direction.EGRESS, (DnsTerm(None, "", rules),))]))
        net.start_proxy()
        net.until_served()
        rates, added, used = _rounds(rig, net)
        _check(net)
    rig.say(f"l7: DNS through the proxy: {spread(rates, 'questions/s')}, {median(used):.0f} µs of its processor each")
    yield Result(name="l7.dns_per_s", value=median(rates), unit="1/s", aim=at_least(5_000))
    yield Result(name="l7.dns_added_ms", value=median(added), unit="ms", aim=at_most(0.5))


def _rounds(rig: Rig, net: DnsNet) -> tuple[list[float], list[float], list[float]]:
    """Questions each second, milliseconds that one alone takes longer, and microseconds of the proxy's processor."""
    rates: list[float] = []
    added: list[float] = []
    used: list[float] = []
    for number in range(ROUNDS + 1):
        took = {port: net.client.run(partial(_alone, port)) for port in (53, _DIRECT)}
        before = _processor_s(net)
        rate = net.client.run(lambda: _together(53))
        spent = _processor_s(net) - before
        direct = net.client.run(lambda: _together(_DIRECT))
        if number:  # the first is for warming up
            rates.append(rate)
            added.append((took[53] - took[_DIRECT]) * 1e3)
            used.append(spent / QUESTIONS * 1e6)
            rig.say(
                f"l7: DNS {rate:,.0f} questions/s, {direct:,.0f} direct; "
                f"{took[53] * 1e3:.2f} ms alone, {took[_DIRECT] * 1e3:.2f} direct"
            )
    return rates, added, used


def _alone(port: int) -> float:
    """Seconds that a question takes that is asked when the one before was answered: half of them take less."""
    taken = []
    with _socket(port) as sock:
        for number in range(ALONE):
            began = time.perf_counter()
            sock.send(number.to_bytes(2) + _ASKED[2:])
            sock.recv(4096)
            taken.append(time.perf_counter() - began)
    return quantiles(taken, n=2)[0]


def _together(port: int) -> float:
    """Questions each second when so many wait for their answers at once."""
    sent = answered = 0
    with _socket(port) as sock:
        began = time.perf_counter()
        while answered < QUESTIONS:
            while sent - answered < ASKED_AT_ONCE and sent < QUESTIONS:
                sock.send((sent & 0xFFFF).to_bytes(2) + _ASKED[2:])
                sent += 1
            sock.recv(4096)
            answered += 1
        return QUESTIONS / (time.perf_counter() - began)


def _check(net: DnsNet) -> None:
    """What may not be asked is refused still."""

    def denied() -> bytes:
        with _socket(53) as sock:
            sock.send(_DENIED)
            return sock.recv(4096)

    if net.client.run(denied)[3] & 0xF != 5:
        raise WrongError("l7: the DNS proxy answers what may not be asked")


def _socket(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(5)
    made.connect((SERVER4, port))
    return made


def _processor_s(net: DnsNet) -> float:
    assert net.proxy is not None
    said = Path(f"/proc/{net.proxy.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(said[11]) + int(said[12])) / os.sysconf("SC_CLK_TCK")


def _serve(address: str) -> None:
    """Every question has one answer, at both ports: as fast as a server in Python can be."""
    found = []
    for port in (53, _DIRECT):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        made.bind((address, port))
        found.append(made)
    print("serving", flush=True)
    answer = bytes.fromhex("c00c000100010000012c0004c0000201")
    while True:
        for sock in select.select(found, [], [])[0]:
            data, client = sock.recvfrom(4096)
            sock.sendto(data[:2] + bytes.fromhex("8180000100010000") + b"\0\0" + data[12:] + answer, client)


if __name__ == "__main__":
    _serve(sys.argv[1])
