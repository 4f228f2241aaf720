"""Fixtures for all tests."""

import asyncio
import gc
import signal

import pytest
from anyio._backends._asyncio import TestRunner
from hypothesis import HealthCheck, settings

from tests.support.effort import QUICK, examples

# How fast examples are made says how busy the machine is, and nothing about what is tested.
settings.register_profile("cplane", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "quick", settings.get_profile("cplane"), max_examples=examples(100), derandomize=True, database=None
)
settings.load_profile("quick" if QUICK else "cplane")

# A shell that starts something in the background has it ignore SIGINT, and so would every command that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _but_late_wakeups(handle):
    """What is cancelled just as its socket becomes readable is woken in vain; anyio takes that for an error."""

    def handle_others(runner, loop, context):
        woken = getattr(getattr(context.get("handle"), "_callback", None), "__self__", None)
        late = isinstance(woken, asyncio.Future) and woken.cancelled()
        if not (late and isinstance(context.get("exception"), asyncio.InvalidStateError)):
            handle(runner, loop, context)

    return handle_others


TestRunner._exception_handler = _but_late_wakeups(TestRunner._exception_handler)


def pytest_configure():
    gc.disable()  # nothing that is imported or collected becomes garbage


def pytest_collection_finish():
    gc.freeze()  # nor does it later: a fifth of all time went into looking through it again and again
    gc.enable()


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture(scope="session")
def postgres():
    """One PostgreSQL server for all tests of this process, which make databases of their own in it."""
    from tests.support.postgres import server  # most processes need none

    with server() as made:
        yield made
