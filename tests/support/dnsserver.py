"""A small DNS server for tests, over UDP and TCP.

python -m tests.support.dnsserver ADDRESS… serves until it is ended.
"""

import socket
import socketserver
import sys
import threading

from dnslib import QTYPE, RCODE, RR, DNSHeader, DNSRecord

ZONE = """
a.example. 30 IN A 192.0.2.1
a.example. 30 IN AAAA 2001:db8::1
b.example. 30 IN A 192.0.2.2
alias.example. 60 IN CNAME deep.example.
deep.example. 20 IN CNAME a.example.
short.example. 1 IN A 192.0.2.9
world.example. 60 IN A 198.51.100.2
world.example. 60 IN AAAA 2001:db8::2
other.example. 60 IN A 198.51.100.3
brief.example. 1 IN A 198.51.100.4
text.example. 30 IN TXT "hello"
""" + "".join(f"many.example. 30 IN A 198.51.100.{number}\n" for number in range(1, 101))
UDP_MAX = 512

RECORDS: dict[str, list[RR]] = {}
for _one in RR.fromZone(ZONE):
    RECORDS.setdefault(str(_one.rname).lower(), []).append(_one)


def reply(data: bytes, limit: int) -> bytes:
    """What is answered. Names that end in `garbled.example.` get an answer that makes no sense."""
    query = DNSRecord.parse(data)
    name, kind = str(query.q.qname).lower(), QTYPE[query.q.qtype]
    made = query.reply(ra=1, aa=0)
    left = {name}
    for _ in range(4):
        for owner in sorted(left):
            for one in RECORDS.get(owner, ()):
                if QTYPE[one.rtype] == "CNAME":
                    left.add(str(one.rdata.label).lower())
    for owner in (name, *sorted(left - {name})):
        for one in RECORDS.get(owner, ()):
            if kind in {QTYPE[one.rtype], "ANY"} or QTYPE[one.rtype] == "CNAME":
                made.add_answer(one)
    if name not in RECORDS:
        made.header.rcode = RCODE.NXDOMAIN
    packed = bytes(made.pack())
    if name == "garbled.example.":
        return packed[:2] + b"\x81\x80" + packed[4:6] + b"\0\7" + packed[8:]
    if len(packed) <= limit:
        return packed
    short = DNSRecord(DNSHeader(id=query.header.id, qr=1, ra=1, rd=query.header.rd, tc=1), q=query.q)
    return bytes(short.pack())


def limit_of(data: bytes) -> int:
    """What the client takes over UDP."""
    sizes = [one.rclass for one in DNSRecord.parse(data).ar if QTYPE[one.rtype] == "OPT"]
    return max([UDP_MAX, *sizes])


class _Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, sock = self.request
        sock.sendto(reply(data, limit_of(data)), self.client_address)


class _Tcp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        while head := self.rfile.read(2):
            made = reply(self.rfile.read(int.from_bytes(head)), 65535)
            self.wfile.write(len(made).to_bytes(2) + made)


def serve(address: str, port: int = 53) -> None:
    """Threads serve the address from now on."""
    for base, handler in ((socketserver.UDPServer, _Udp), (socketserver.ThreadingTCPServer, _Tcp)):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = type("Server", (base,), {"address_family": family, "allow_reuse_address": True, "daemon_threads": True})
        threading.Thread(target=made((address, port), handler).serve_forever, daemon=True).start()


if __name__ == "__main__":
    for _address in sys.argv[1:]:
        serve(_address)
    print("serving", flush=True)
    threading.Event().wait()
