"""Suite agent: how much memory an agent takes, and how fast it is there."""

from collections.abc import Iterator
from statistics import median

import rules
from report import CILIUM, Aim, Result, WrongError, at_most, spread
from rig import Bed, Rig

from tests.support import asking

_STARTS, _RESTARTS, _SLOW_RESTARTS = 3, 5, 3


def measure(rig: Rig) -> Iterator[Result]:
    """Everything of the suite. Raises WrongError."""
    yield _cold(rig)
    yield _warm(rig)
    with rig.bed("full") as full:
        full.agent.start()
        rig.say(f"agent: {rules.ENDPOINTS} endpoints")
        rules.fill(full)
        yield _memory("agent.rss_mb_65ep", full.rss_mb(), 209.0)
        yield _restart(rig, full, "agent.restart_insync_s", _RESTARTS, at_most(2))
        _must_be_equal(full)
        yield _loaded(rig, full)
        yield _restart(rig, full, "agent.restart_insync_s_1000rules", _SLOW_RESTARTS)


def _cold(rig: Rig) -> Result:
    """The first start on a machine, which compiles the programs."""
    with rig.bed("cold", warm=False) as bed:
        took_s = bed.agent.start()
        rig.keep_programs(bed)
    rig.say(f"agent: first start, nothing compiled: {took_s:.2f} s")
    return Result(name="agent.start_cold_s", value=took_s, unit="s")


def _warm(rig: Rig) -> Result:
    """A first start whose programs are compiled already: no log, nothing in the kernel."""
    taken = []
    for index in range(_STARTS):
        with rig.bed(f"warm{index}") as bed:
            taken.append(bed.agent.start())
    rig.say(f"agent: first start, programs compiled: {spread(taken, 's')}")
    return Result(name="agent.start_s", value=median(taken), unit="s", peer=CILIUM, peer_value=4.3)


def _memory(name: str, value: float, cilium: float) -> Result:
    return Result(name=name, value=value, unit="MB", peer=CILIUM, peer_value=cilium, aim=at_most(120))


def _loaded(rig: Rig, full: Bed) -> Result:
    before = full.rss_mb()
    rules.load(full, rules.thousand())
    after = full.rss_mb()
    rig.say(f"agent: {before:.0f} MB resident, {after:.0f} MB after {rules.RULES} rules")
    return _memory("agent.rss_mb", after, 357.0)


def _restart(rig: Rig, full: Bed, name: str, times: int, aim: Aim | None = None) -> Result:
    """Killed and started again, until the kernel has what the log says."""
    taken = []
    for _ in range(times):
        full.agent.kill()
        taken.append(full.agent.start())
    rig.say(f"{name}: {spread(taken, 's')}")
    return Result(name=name, value=median(taken), unit="s", peer=CILIUM, peer_value=13.0, aim=aim)


def _must_be_equal(full: Bed) -> None:
    """An agent that says it is in sync is; every row of every table is compared."""
    if wrong := asking.ask(full.agent, asking.unequal_rows):
        raise WrongError(f"in sync, and yet {len(wrong)} rows are not what they should be: {wrong[0]}")
