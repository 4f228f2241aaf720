"""The DNS proxy, a process of its own: while the agent is away it goes on answering by the last rules it was told.

    python -m cplane.proxy.dns --channel RUN/proxy/channel.sock --rules RUN/proxy/dns.rules

Each proxy port is served at 127.0.0.1 and ::1, over UDP and TCP, transparently: packets come with the server's address.
SIGTERM ends it. Exit code 2 for wrong usage.
"""

import argparse
import asyncio
import gc
import signal
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from cplane.proxy.channel import PutDns
from cplane.proxy.channel_client import ProxyClient
from cplane.proxy.dnsnames import Names
from cplane.proxy.dnsrules import Rules
from cplane.proxy.dnsserving import RELEASE_S, Serving, Settings
from cplane.proxy.dnssockets import raise_descriptors
from cplane.proxy.dnstcp import TcpPort, TcpServing
from cplane.proxy.dnsudp import UdpPort, UdpServing
from cplane.proxy.dnswire import NXDOMAIN, REFUSED
from cplane.telemetry.log import configure, line, logger

REJECT: Final = {"refused": REFUSED, "nameError": NXDOMAIN}
_REPORT_S: Final = 60.0

log = logger("dns")


class Proxy:
    """All proxy ports, by the rules that were told last. It is made on the loop that serves it."""

    def __init__(self, channel: Path, rules: Path, settings: Settings) -> None:
        names = Names()
        self.client = ProxyClient(PutDns, channel, rules, self.enforce, names.forget)
        self.shared = Serving(self.client, settings, names)
        self.udp, self.tcp = UdpServing(self.shared), TcpServing(self.shared)
        self._ports: dict[int, tuple[UdpPort, TcpPort]] = {}

    async def enforce(self, put: Mapping[int, PutDns], gone: Collection[int]) -> Mapping[int, str]:
        """The rows are in force, but for those of ports that are in the answer, with the reason."""
        for port in gone:
            for one in self._ports.pop(port, ()):
                one.close()
                if isinstance(one, TcpPort):
                    self.tcp.end(one)
        failed = {}
        for port, row in put.items():
            rules = Rules(row)
            held = self._ports.get(port)
            if held is not None:
                for one in held:
                    one.rules = rules
                continue
            try:
                udp = UdpPort(rules, self.udp)
                try:
                    self._ports[port] = udp, TcpPort(rules, self.tcp)
                except OSError:
                    udp.close()
                    raise
            except OSError as error:
                failed[port] = f"the DNS proxy cannot listen at port {port}: {error.strerror}"
        return failed

    async def run(self) -> None:
        """Serves until it is cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.client.run())
                tasks.create_task(self.shared.keep_telling())
                tasks.create_task(self._expire())
        finally:
            self.udp.close()
            self.tcp.close()

    async def _expire(self) -> None:
        told, since = dict(self.shared.counts), 0.0
        while True:
            await asyncio.sleep(0.5)
            self.udp.expire()
            since += 0.5
            if since >= _REPORT_S and self.shared.counts != told:
                changed = {name: count - told.get(name, 0) for name, count in self.shared.counts.items()}
                said = " ".join(f"{name}={count}" for name, count in sorted(changed.items()) if count)
                log.info(line("questions", detail=said))
                told, since = dict(self.shared.counts), 0.0


async def _until_told(channel: Path, rules: Path, settings: Settings) -> None:
    serving = asyncio.current_task()
    assert serving is not None, "a coroutine runs in a task"
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
    try:
        await Proxy(channel, rules, settings).run()
    except asyncio.CancelledError:
        log.info(line("stopping"))


def main(arguments: list[str] | None = None) -> int:
    """Reads the arguments and serves."""
    parser = argparse.ArgumentParser(prog="cplane.proxy.dns", description=__doc__.partition("\n")[0])
    parser.add_argument("--channel", type=Path, required=True, help="socket at which the agent listens")
    parser.add_argument("--rules", type=Path, required=True, help="file that keeps the last rules")
    parser.add_argument("--build", default="", help="of the code: an agent replaces a proxy of another one")
    parser.add_argument("--reject", choices=sorted(REJECT), default="refused", help="answer to who may not ask")
    parser.add_argument("--max-delay-ms", type=int, default=int(RELEASE_S * 1000), help="how long an answer waits")
    given = parser.parse_args(arguments)
    configure()
    raise_descriptors()
    settings = Settings(reject=REJECT[given.reject], release_s=given.max_delay_ms / 1000)
    gc.collect()
    gc.freeze()  # what is there now stays
    asyncio.run(_until_told(given.channel, given.rules, settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
