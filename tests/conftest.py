"""Fixtures for all tests."""

import signal

import pytest
from hypothesis import HealthCheck, settings

# How fast examples are made says how busy the machine is, and nothing about what is tested.
settings.register_profile("cplane", suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cplane")

# A shell that starts something in the background has it ignore SIGINT, and so would every command that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param


@pytest.fixture(scope="session")
def postgres():
    """One PostgreSQL server for all tests of this process, which make databases of their own in it."""
    from tests.support.postgres import server  # most processes need none

    with server() as made:
        yield made
