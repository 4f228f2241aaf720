"""`cplane fqdn`: what endpoints were told, and what policies select of it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cplane.deciders.fqdn import Answer, RecordAnswers
from tests.support.admin import administered, run
from tests.support.engine import ListEngine
from tests.support.scenario import pod
from tests.unit.cplane.deciders.test_fqdn import names

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


@pytest.fixture
def engine() -> ListEngine:
    told = (
        Answer(1, "a.example.", ("192.0.2.1", "192.0.2.10", "192.0.2.2"), 30, "10.96.0.10", 17),
        Answer(2, "b.test.", ("2001:db8::1",), 60, "10.96.0.10", 18),
    )
    pods = pod("web", "k8s:app=api", ifindex=10), pod("db", "k8s:app=db", ifindex=11)
    return ListEngine(*pods, names("*.example", "c.test"), RecordAnswers(answers=told))


@pytest.fixture
async def path(engine: ListEngine, tmp_path: Path) -> AsyncIterator[Path]:
    """A socket with an agent behind it, for which `b.test.` counts by its connections alone."""
    socket = tmp_path / "cpt.sock"
    async with administered(engine, socket, name_left_s=lambda _endpoint, name, _ip: 12.5 * (name == "a.example.")):
        yield socket


async def test_what_endpoints_were_told_is_listed(path: Path) -> None:
    found = await run(path, "fqdn", "cache", "list", "-o", "json")
    first, second = json.loads(found.out)["names"]
    assert (first["endpoint"], first["name"], first["ips"]) == (
        1,
        "a.example.",
        ["192.0.2.1", "192.0.2.2", "192.0.2.10"],
    )
    assert (first["source"], first["ttl_s"], first["selected"], first["server"]) == ("lookup", 30, True, "10.96.0.10")
    assert first["expires_at_ns"] > 12_000_000_000
    assert (second["source"], second["expires_at_ns"], second["selected"]) == ("connection", 0, False)
    for chosen in (("--endpoint", "2"), ("-p", "*.test")):
        table = (await run(path, "fqdn", "cache", "list", *chosen)).out.splitlines()
        assert table[0].split() == ["ENDPOINT", "SOURCE", "FQDN", "TTL", "EXPIRATIONTIME", "SELECTED", "IPS"]
        assert [line.split() for line in table[1:]] == [["2", "connection", "b.test.", "60", "-", "no", "2001:db8::1"]]
    refused = await run(path, "fqdn", "cache", "list", "-p", "a b")
    assert (refused.code, "pattern: 'a b'" in refused.err) == (1, True)


async def test_selectors_are_shown_with_what_they_select(path: Path, engine: ListEngine) -> None:
    found = json.loads((await run(path, "fqdn", "names", "-o", "json")).out)["selectors"]
    assert [one["selector"] for one in found] == ["*.example", "c.test"]
    assert (found[0]["names"], found[0]["ips"][0], found[0]["policies"]) == (["a.example."], "192.0.2.1", 1)
    assert found[0]["identities"] == [engine.world.fqdn.numbers["192.0.2.1"]]
    assert found[1]["ips"] == []
    assert "*.example" in (await run(path, "fqdn", "names")).out


async def test_what_was_told_is_forgotten(path: Path, engine: ListEngine) -> None:
    cleaned = await run(path, "fqdn", "cache", "clean", "-p", "*.example", "--wait")
    assert cleaned.out == f"3 addresses forgotten\nposition {engine.head}\n"
    assert list(engine.world.fqdn.answers) == [2]
    assert not engine.world.fqdn.numbers
    ips = json.loads((await run(path, "ip", "list", "-o", "json")).out)["entries"]
    assert "name" not in {one["source"] for one in ips}


async def test_an_address_that_has_names_is_listed_as_such(path: Path) -> None:
    ips = json.loads((await run(path, "ip", "list", "-o", "json")).out)["entries"]
    assert {one["prefix"] for one in ips if one["source"] == "name"} == {
        "192.0.2.1/32",
        "192.0.2.2/32",
        "192.0.2.10/32",
    }
