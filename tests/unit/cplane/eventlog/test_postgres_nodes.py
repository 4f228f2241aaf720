"""`cplane why` on one database with the logs of several nodes."""

import json

import pytest
from click.testing import CliRunner

from cplane.cli.main import cli
from cplane.deciders.node import JoinNode
from cplane.eventlog.postgres import PostgresLog
from cplane.events.envelope import Proposed
from tests.support.clock import TickingClock
from tests.support.postgres import NEEDS_POSTGRES
from tests.support.scenario import pod
from tests.support.story import Story, applied

pytestmark = [pytest.mark.anyio, pytest.mark.slow, NEEDS_POSTGRES]
ASKED = ("--from", "shop/client", "--to", "shop/web", "--port", "80/TCP")


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def name(postgres):
    with postgres.database() as made:
        yield made


def story(node, block, *commands):
    join = JoinNode(name=node, cluster="default", ipv4_pod_cidr=f"10.{block}.0.0/24", ipv6_pod_cidr="")
    return Story(*commands, join=join)


async def keep(url, node, told):
    """The log of the node in the database is that of the story."""
    async with PostgresLog.open(url, TickingClock(), node=node) as log:
        for one in told.entries:
            expected = {one.stream: one.version - 1}
            await log.append(Proposed(events=((one.stream, one.event),), expected=expected, actor=one.actor))


def why(*arguments):
    done = CliRunner().invoke(cli, ["why", *arguments], prog_name="cplane")
    return done.exit_code, done.stdout, done.stderr


async def test_each_node_is_asked_about_its_own_end(postgres, name):
    url = postgres.url(name)
    shut = applied("web", "web", ingress=[{"fromCIDR": ["192.0.2.0/24"]}])
    await keep(url, "n1", story("n1", 1, pod("client", "k8s:app=client")))
    await keep(url, "n2", story("n2", 2, pod("web", "k8s:app=web"), shut))
    await keep(url, "n3", story("n3", 3))
    code, out, err = why("--log", url, *ASKED, "-o", "json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert (found["verdict"], found["node"], found["direction"]) == ("DENIED", "n2", "ingress")
    assert [one["node"] for one in found["answers"]] == ["n1", "n2"]
    code, out, _ = why("--log", url, *ASKED)
    lines = out.splitlines()
    assert (code, lines[0]) == (0, "DENIED: shop/client to shop/web, 80/TCP (by node n2)")
    assert {line.partition(":")[0] for line in lines} >= {"node n1", "node n2"}
    assert why("--log", url, *ASKED, "-o", "tree")[1].splitlines()[0] == lines[0]


async def test_one_node_that_is_named_is_asked_alone_and_errors_say_what_to_do(postgres, name):
    url = postgres.url(name)
    code, _, err = why("--log", url, *ASKED)
    assert (code, "the database is empty; nothing was changed" in err) == (1, True)
    await keep(url, "n1", story("n1", 1, pod("client", "k8s:app=client")))
    assert "there is no pod shop/web" in why("--log", url, *ASKED)[2]  # one node is all there is
    await keep(url, "n2", story("n2", 2, pod("web", "k8s:app=web")))
    code, out, err = why("--log", url, *ASKED, "--at", "2")
    assert (code, out) == (1, "")
    assert "position 2 is of one node's log: give a time, or node=NAME" in err
    code, _, err = why("--log", f"{url}&node=n1", *ASKED)
    assert (code, "there is no pod shop/web at position" in err) == (1, True)
    code, _, err = why("--log", url, "--from", "shop/nobody", "--to", "shop/web", "--port", "80/TCP")
    assert (code, "there is no pod shop/nobody now on any of the nodes" in err) == (1, True)
