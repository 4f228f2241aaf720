"""The Kafka proxy's process: `python -m cplane.proxy.kafka --channel SOCKET --rules FILE`. It needs CAP_NET_ADMIN."""

import argparse
import asyncio
import sys
from pathlib import Path

from cplane.telemetry.log import configure


def main() -> None:
    """Redirections are served until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="cplane.proxy.kafka", description="The Kafka proxy of cplane.")
    parser.add_argument("--channel", type=Path, required=True, help="unix socket at which the agent listens")
    parser.add_argument("--rules", type=Path, required=True, help="file that keeps the last rules")
    parser.add_argument("--build", default="", help="of the code: an agent replaces a proxy of another one")
    parser.add_argument(
        "--clamp",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="tell clients of API versions only that name topics by their names",
    )
    parser.add_argument("--frame-max", type=int, default=16 << 20, help="bytes of a request (%(default)s)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    given = parser.parse_args()
    configure(given.log_level)
    # Where hypothesis is installed kio imports it, which takes longer than all the rest.
    sys.modules.setdefault("hypothesis", None)  # type: ignore[arg-type]  # as the import system has it
    from cplane.proxy.kafka_connection import Limits
    from cplane.proxy.kafka_proxy import run

    asyncio.run(run(given.channel, given.rules, Limits(frame_bytes=given.frame_max), clamp=given.clamp))


if __name__ == "__main__":
    main()
