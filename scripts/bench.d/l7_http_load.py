"""A client and a server of HTTP for l7_http.py, as light as Python has them.

`l7_http_load.py serve PORT`: every request is answered with 200. `l7_http_load.py ask HOST`: for each line of its
input, `PORT COUNT FIRST`, so many requests are sent over connections that stay open, for
`/api/v<number>/shop/items/12` from FIRST on, modulo 100. It says how many were answered with 200.
"""

import asyncio
import socket
import sys

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"
CONNECTIONS = 16
PATHS = 100
REQUESTS = [
    b"GET /api/v%d/shop/items/12 HTTP/1.1\r\nHost: a\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n" % number
    for number in range(PATHS)
]


class Answering(asyncio.Protocol):
    """Counts the requests that arrive and answers them."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Requests fit into a packet each."""
        self._transport.write(ANSWER * data.count(b"\r\n\r\n"))


async def serve(port: int) -> None:
    """Answer until this is ended."""
    server = await asyncio.get_running_loop().create_server(Answering, ["0.0.0.0", "::"], port)
    print("ready", flush=True)
    await server.serve_forever()


def ask(host: str) -> None:
    """Send what is asked for, a request on each connection at a time."""
    held: dict[int, list[socket.socket]] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        port, count, first = map(int, line.split())
        if port not in held:
            held[port] = [socket.create_connection((host, port)) for _ in range(CONNECTIONS)]
            for one in held[port]:
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fine = 0
        for at in range(first, first + count, CONNECTIONS):
            for index, one in enumerate(held[port]):
                one.sendall(REQUESTS[(at + index) % PATHS])
            fine += sum(one.recv(65536).startswith(b"HTTP/1.1 200") for one in held[port])
        print(fine, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        asyncio.run(serve(int(sys.argv[2])))
    else:
        ask(sys.argv[2])
