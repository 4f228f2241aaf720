"""What runs in a pod: answers each line over TCP, and each datagram, with itself. Standard library only.

Usage: python -I -S pod_server.py PORT [NAME]; with a name that comes before each answer. Prints `ready` when it
listens, ends when its standard input or its parent says so, by a signal.
"""

import selectors
import socket
import sys

SO_RCVBUFFORCE = 33  # asm-generic/socket.h; beyond the machine's limit, which root may
BUFFER_BYTES = 4 << 20  # a process that gets no CPU for a while must not lose what the network brought


def main(port: int, name: bytes = b"") -> None:
    """Serve both families until killed."""
    poll = selectors.DefaultSelector()
    listener = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
    listener.setblocking(False)
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    datagrams.bind(("::", port))
    datagrams.setblocking(False)
    for one in (listener, datagrams):
        poll.register(one, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in poll.select():
            ready = key.fileobj
            assert isinstance(ready, socket.socket)
            if ready is listener:
                accepted, _ = listener.accept()
                accepted.setblocking(False)
                poll.register(accepted, selectors.EVENT_READ)
            elif ready is datagrams:
                data, peer = datagrams.recvfrom(2048)
                reply(lambda data=name + data, peer=peer: datagrams.sendto(data, peer))
            elif not echo(ready, name):
                poll.unregister(ready)
                ready.close()


def echo(connection: socket.socket, name: bytes) -> bool:
    """What came goes back; False: the peer is done."""
    try:
        data = connection.recv(2048)
        if data:
            connection.sendall(name + data)
    except OSError:
        return False
    return bool(data)


def reply(send: object) -> None:
    """The answer to a datagram is out, or lost as datagrams are."""
    assert callable(send)
    try:
        send()
    except OSError as error:
        print(f"an answer was not sent: {error}", file=sys.stderr)


if __name__ == "__main__":
    main(int(sys.argv[1]), "".join(f"{name} " for name in sys.argv[2:]).encode())
