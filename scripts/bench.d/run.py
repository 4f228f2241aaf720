"""Runs suites and prints what they found; see scripts/bench."""

import argparse
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Final

import agent
import history
import hubble
import l7
import lb
import log
import net
import policy
from grpclib.exceptions import GRPCError
from report import Result, WrongError, missed, table, to_json
from rig import Rig, compile_python

from cplane.errors import CplaneError

SUITES: Final[Mapping[str, Callable[[Rig], Iterator[Result]]]] = {
    "net": net.measure,
    "agent": agent.measure,
    "log": log.measure,
    "policy": policy.measure,
    "history": history.measure,
    "hubble": hubble.measure,
    "lb": lb.measure,
    "l7": l7.measure,
}
FAILURES: Final = (WrongError, AssertionError, CplaneError, GRPCError, OSError, subprocess.SubprocessError)
"""What ends a suite, and not the run: a number that would lie, an agent that does not answer, a tool that fails."""

_NEEDS_ROOT: Final = frozenset({"net", "agent", "lb", "l7"})
_STOPPED: Final = 130


def run(names: list[str], file: Path | None) -> int:
    """The suites, one after another; 0: all could be measured, 1: one could not."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an agent that compiles itself at each start is not what is used
    rig = Rig()
    results: list[Result] = []
    failed = []
    try:
        rig.say(f"{platform.system()} {platform.release()}, {os.cpu_count()} CPUs; suites: {', '.join(names)}")
        compile_python()
        for name in names:
            try:
                for result in SUITES[name](rig):  # what was found before a failure is kept
                    results.append(result)  # noqa: PERF402  # extend would lose it
            except FAILURES as error:
                failed.append(name)
                rig.say(f"{name}: cannot go on: {type(error).__name__}: {error}")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # nothing may stop the cleaning
        left = rig.remove()
    print(table(results))
    if file is not None:
        file.write_text(to_json(results))
    for name in missed(results):
        rig.say(f"{name} misses its aim")
    for path in left:
        rig.say(f"{path} is still there")
    return 1 if failed or left else 0


def main() -> int:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measures cplane beside its peers.")
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"{', '.join(SUITES)}; all without one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(SUITES):
        parser.error(f"there is no suite {', '.join(sorted(unknown))}; suites are {', '.join(SUITES)}")
    names = list(dict.fromkeys(arguments.suites)) or list(SUITES)
    if os.geteuid() != 0 and (barred := _NEEDS_ROOT & set(names)):
        if arguments.suites:
            parser.error(f"{', '.join(sorted(barred))}: needs root, for network namespaces and eBPF programs")
        print(f"bench: not root, so without {', '.join(sorted(barred))}", file=sys.stderr)
        names = [name for name in names if name not in barred]
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    try:
        return run(names, arguments.json)
    except KeyboardInterrupt:
        print("bench: interrupted; everything has been cleaned up", file=sys.stderr)
        return _STOPPED


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
