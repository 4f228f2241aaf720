"""Options and fixtures for all tests."""

import pytest


def pytest_addoption(parser):
    parser.addoption("--rewrite-golden", action="store_true", help="write the golden files anew instead of comparing")


@pytest.fixture
def rewrite_golden(request):
    return request.config.getoption("--rewrite-golden")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request):
    return request.param
