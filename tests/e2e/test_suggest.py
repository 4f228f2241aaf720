"""Policies that are suggested from what proxies have read, put in force: what was seen goes on, and nothing else."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.asking import until
from tests.support.site import WORLD4, policy, site
from tests.support.web import Web

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

WATCHED = policy(
    "watched",
    "client",
    """
egress:
- toEndpoints: [{matchLabels: {app: dns}}]
  toPorts: [{ports: [{port: "53", protocol: ANY}], rules: {dns: [{matchPattern: "*"}]}}]
- toEndpoints: [{matchLabels: {app: server}}]
  toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: [{}]}}]
- toEntities: [world]
""",
)


@pytest.fixture(scope="module")
def web(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    with site(tmp_path_factory.mktemp("site"), programs, ("client",)) as made:
        made.world.serve()
        made.pods.add("dns", serve=False)
        made["dns"].serve_names()
        yield Web(made)


def address_of(web: Web, name: str) -> str:
    command = ["dig", f"@{web.site['dns'].ipv4}", "+tries=1", "+time=3", "+short", name, "A"]
    enter = ["nsenter", f"--net={web.client.netns.path}", "--"]
    return subprocess.run([*enter, *command], capture_output=True, text=True, check=False).stdout.strip()


def test_what_was_seen_goes_on_and_nothing_else(web: Web, tmp_path: Path) -> None:
    agent = web.site.agent
    web.site.apply(WATCHED)
    assert [web.status(one) for one in ("/items/1", "/items/2?full=1", "/items/3", "/health")] == ["200"] * 4
    assert address_of(web, "world.example") == WORLD4
    assert web.client.reach(WORLD4)
    until(lambda: len(agent.flows("--type", "l7", "--last", "100")) >= 10, "requests are flows")
    proposed = tmp_path / "proposed.yaml"
    proposed.write_text(agent.cplane("policy", "suggest", "-n", "demo").stdout)
    (client,) = (one for one in yaml.safe_load_all(proposed.read_text()) if one["metadata"]["name"] == "seen-client")
    assert client["spec"]["egress"] == [
        {
            "toEndpoints": [{"matchLabels": {"app": "dns"}}],
            "toPorts": [
                {"ports": [{"port": "53", "protocol": "UDP"}], "rules": {"dns": [{"matchName": "world.example"}]}}
            ],
        },
        {
            "toEndpoints": [{"matchLabels": {"app": "server"}}],
            "toPorts": [
                {
                    "ports": [{"port": "80", "protocol": "TCP"}],
                    "rules": {
                        "http": [
                            {"method": "GET", "path": "/health"},
                            {"method": "GET", "path": r"/items/[0-9]+(\?.*)?"},
                        ]
                    },
                }
            ],
        },
        {
            "toFQDNs": [{"matchName": "world.example"}],
            "toPorts": [{"ports": [{"port": "8080", "protocol": "TCP"}]}],
        },
    ]
    assert r"HTTP: GET /items/[0-9]+(\?.*)? stands for 3 seen: /items/1, /items/2, /items/3" in proposed.read_text()
    assert agent.cplane("policy", "validate", "-f", str(proposed)).returncode == 0
    review = agent.cplane("policy", "preview", "-f", str(proposed), "-o", "json", check=False)
    assert [one for one in json.loads(review.stdout)["seen"] if one["after"] == "DENIED"] == []

    web.site.lift()
    web.site.apply(proposed.read_text())
    assert [web.status(one) for one in ("/items/77", "/items/8?x", "/health")] == ["200"] * 3
    assert [web.status(one) for one in ("/items/x", "/items/7/y", "/", "/health?x")] == ["403"] * 4
    assert web.status("/health", "-X", "POST") == "403"
    assert address_of(web, "other.example") == ""
    assert address_of(web, "world.example") == WORLD4
    assert web.client.reach(WORLD4)
    assert not web.client.reach(WORLD4, port=80, timeout_s=1)


def test_on_request_only_ports_are_proposed(web: Web) -> None:
    said = web.site.agent.cplane("policy", "suggest", "-n", "demo", "--l4").stdout
    assert "rules:" not in said
    assert "toCIDR" in said and "toFQDNs" not in said
