"""What sends a datagram every millisecond and counts the answers. Standard library only.

Usage: python -I -S stream_client.py ADDRESS PORT; ends when its standard input does, waits a moment for the last
answers, and prints `{"sent": …, "lost": [numbers of those without an answer], "answered": …}`. Prints `ready` first.
"""

import json
import os
import select
import socket
import sys
import time

INTERVAL_S = 0.001
LAST_ANSWERS_S = 1.0
SO_RCVBUFFORCE = 33  # asm-generic/socket.h; beyond the machine's limit, which root may
BUFFER_BYTES = 4 << 20  # a process that gets no CPU for a while must not lose what the network brought


def main(address: str, port: int) -> None:
    """Send until told to stop."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
        sock.setblocking(False)
        sock.connect((address, port))
        answered: set[int] = set()
        sent = 0
        print("ready", flush=True)
        due = time.monotonic()
        while not stopped():
            sock.send(b"%d\n" % sent)
            sent += 1
            due = max(due + INTERVAL_S, time.monotonic())  # late is late: what was missed is not sent in a burst
            while (left := due - time.monotonic()) > 0:
                if select.select([sock], [], [], left)[0]:
                    receive(sock, answered)
        deadline = time.monotonic() + LAST_ANSWERS_S
        while len(answered) < sent and (left := deadline - time.monotonic()) > 0:
            if select.select([sock], [], [], left)[0]:
                receive(sock, answered)
    lost = sorted(set(range(sent)) - answered)
    print(json.dumps({"sent": sent, "answered": len(answered), "lost": lost}), flush=True)


def stopped() -> bool:
    """Whether the standard input has ended."""
    return bool(select.select([0], [], [], 0)[0]) and not os.read(0, 64)


def receive(sock: socket.socket, answered: set[int]) -> None:
    """What is there now is counted."""
    try:
        while True:
            answered.add(int(sock.recv(64)))
    except BlockingIOError:
        return


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
