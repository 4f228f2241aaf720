"""`policy matrix`: a table, JSON, or one page that needs nothing else."""

import json
import re
from html.parser import HTMLParser

import pytest
import yaml

from tests.support.offline import GOLDEN, policy

SCENE = GOLDEN / "truth/scene.yaml"
ONLY_WEB = GOLDEN / "truth/03-a-peer-is-in-the-namespace/policy.yaml"
EVIL = """
apiVersion: v1
kind: Pod
metadata: {name: '</script><b onclick="x">&', namespace: shop, labels: {app: evil}}
"""


class Page(HTMLParser):
    """Elements that stand open at the end, those that were seen, and what they name outside the page."""

    VOID = frozenset({"meta"})

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.outside = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.outside += [value for name, value in attrs if name in {"src", "href"} or name.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_table_has_a_row_and_a_column_for_everybody():
    ran = policy("matrix", "-f", SCENE, ONLY_WEB, "--port", "80/TCP", "-n", "shop")
    assert ran.out.splitlines() == [
        "80/TCP          1 2 3 4 5 6 7",
        "1 shop/api      ✗ ✓ ✓ ✓ ✓ ✓ ✓",
        "2 shop/db       ✗ ✓ ✓ ✓ ✓ ✓ ✓",
        "3 shop/web      ✓ ✓ ✓ ✓ ✓ ✓ ✓",
        "4 node/n1       ✓ ✓ ✓ ✓ ✓ ✓ ✓",
        "5 node/n2       ✗ ✓ ✓ ✓ ✓ ✓ ✓",
        "6 world (IPv4)  ✗ ✓ ✓ ✓ ✓ · ·",
        "7 world (IPv6)  ✗ ✓ ✓ ✓ ✓ · ·",
        "",
        "✓ allowed  ✗ denied  · no such traffic, or not judged here",
    ]
    assert (ran.code, ran.err) == (0, "")


def test_an_audited_pod_is_not_shown_for_its_twin(tmp_path):
    twin = "{apiVersion: v1, kind: Pod, metadata: {name: api-2, namespace: shop, labels: {app: api}}}"
    (tmp_path / "twin.yaml").write_text(twin)
    arguments = ("-f", SCENE, tmp_path / "twin.yaml", ONLY_WEB, "--port", "80/TCP", "-n", "shop", "-o", "json")
    found = json.loads(policy("matrix", *arguments, "--audit", "shop/api").out)
    verdicts = {(one["from"], one["to"]): one["verdict"] for one in found["ports"][0]["cells"]}
    assert (verdicts["shop/db", "shop/api"], verdicts["shop/db", "shop/api-2"]) == ("AUDIT", "DENIED")


def test_a_terminal_gets_colours_and_others_none(monkeypatch):
    arguments = ("matrix", "-f", SCENE, ONLY_WEB, "--port", "80/TCP")
    coloured = policy(*arguments, color=True).out
    assert "\x1b[31m✗\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == policy(*arguments).out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in policy(*arguments, color=True).out


def test_every_kind_of_traffic_has_its_table():
    ran = policy("matrix", "-f", SCENE, ONLY_WEB, "--port", "80/TCP", "8/ICMP", "http/TCP")
    assert [part.split()[0] for part in ran.out.split("\n\n")] == ["80/TCP", "8/ICMP", "http/TCP", "✓"]


def test_programs_get_every_cell_with_its_reasons():
    ran = policy("matrix", "-f", SCENE, ONLY_WEB, "--port", "80/TCP", "-o", "json")
    answer = json.loads(ran.out)
    assert yaml.safe_load(policy("matrix", "-f", SCENE, ONLY_WEB, "--port", "80/TCP", "-o", "yaml").out) == answer
    assert {"name": "shop/api", "kind": "pod", "members": ["shop/api"]}.items() <= answer["parties"][1].items()
    (sheet,) = answer["ports"]
    found = {(cell["from"], cell["to"]): cell for cell in sheet["cells"]}
    assert found["shop/web", "shop/api"]["verdict"] == "ALLOWED"
    assert found["shop/db", "shop/api"]["verdict"] == "DENIED"
    assert found["shop/db", "shop/api"]["ingress"]["rules"][0]["name"] == "p"


def test_the_page_is_whole_needs_nothing_and_tells_why():
    ran = policy(
        "matrix", "-f", SCENE, GOLDEN / "truth/11-requests/policy.yaml", "--port", "80", "8/ICMP", "-o", "html"
    )
    page = Page(ran.out)
    assert (page.open, page.outside) == ([], [])
    assert page.seen.count("section") == 2
    assert "default-src 'none'" in ran.out
    told = re.search(r'<script type="application/json" id="data">(.*?)</script>', ran.out)
    assert told is not None
    data = json.loads(told[1])
    assert any("a proxy (http) judges requests" in side["reason"] for side in data["sides"])
    for numbers in re.findall(r'<button class="\w+" value="([^"]*)"', ran.out):
        row, column, *sides = map(int, numbers.split())
        assert max(row, column) < len(data["parties"])
        assert max(sides) < len(data["sides"])


def test_what_manifests_say_is_only_text_in_the_page():
    ran = policy("matrix", "-f", "-", "--port", "80", "-o", "html", stdin=EVIL)
    page = Page(ran.out)
    assert (page.open, page.outside, page.seen.count("script")) == ([], [], 2)
    assert "&lt;/script&gt;&lt;b onclick=" in ran.out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--port", "80/TPC"), 2, "unknown protocol 'TPC'; did you mean 'TCP'?"),
        (("--port", "TCP"), 2, "'TCP' has no port: write 80/TCP"),
        ((), 2, "Missing option '--port'"),
    ],
)
def test_traffic_must_be_said(arguments, code, told):
    ran = policy("matrix", "-f", SCENE, *arguments)
    assert (ran.code, told in ran.err) == (code, True)


@pytest.mark.slow
def test_a_matrix_that_nobody_could_read_is_refused():
    pods = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"p{n}", "labels": {"n": f"{n}"}}} for n in range(600)
    ]
    ran = policy("matrix", "-f", "-", "--port", "80", stdin=json.dumps({"kind": "List", "items": pods}))
    assert (ran.code, "601 rows and columns are too many" in ran.err) == (1, True)
