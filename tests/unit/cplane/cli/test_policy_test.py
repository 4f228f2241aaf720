"""`policy test`: expectations that are met say little, those that are not say why; and JUnit for machines."""

from xml.etree import ElementTree as ET

import pytest

from tests.support.offline import GOLDEN, policy

SCENE = GOLDEN / "truth/scene.yaml"
ONLY_WEB = GOLDEN / "truth/03-a-peer-is-in-the-namespace/policy.yaml"
TESTS = """
- {name: the web may, from: shop/web, to: shop/api, port: 80/TCP, expect: allow, because: p}
- {name: "the db may\\e <&>", from: shop/db, to: shop/api, port: 80/TCP, expect: allow}
- {from: shop/x, to: shop/api, port: 80/TCP, expect: deny}
"""


@pytest.fixture
def tests(tmp_path):
    file = tmp_path / "tests.yaml"
    file.write_text(TESTS)
    return file


def test_a_failure_is_explained_and_the_exit_code_is_1(tests):
    ran = policy("test", "-f", SCENE, ONLY_WEB, "--tests", tests)
    lines = ran.out.splitlines()
    assert lines[0] == f"FAIL  the db may� <&> ({tests}, [1])"
    assert lines[1] == "      expected ALLOWED, got DENIED"
    assert lines[2] == "      egress: ALLOWED, not enforced: no policy asks for default deny of egress"
    assert lines[3].startswith(
        "      ingress: DENIED, no rule of CiliumNetworkPolicy shop/p allows 80/TCP from identity "
    )
    assert lines[4] == f"FAIL  shop/x → shop/api 80/TCP: deny ({tests}, [2])"
    assert lines[5].startswith("      there is no pod 'shop/x'")
    assert lines[6] == "1 passed, 2 failed"
    assert ran.code == 1


def test_what_passes_is_shown_when_asked_for(tests):
    assert f"ok    the web may ({tests}, [0])" in policy("test", "-f", SCENE, ONLY_WEB, "--tests", tests, "-v").out


def test_machines_get_junit(tests, tmp_path):
    report = tmp_path / "report.xml"
    policy("test", "-f", SCENE, ONLY_WEB, "--tests", tests, "--junit", report)
    (suite,) = ET.parse(report).getroot()
    counts = {"tests": "3", "failures": "1", "errors": "1", "skipped": "0"}
    assert suite.attrib == {"name": str(tests), "time": "0", **counts}
    good, failed, wrong = suite
    assert (good.get("name"), len(good)) == ("the web may", 0)
    assert failed.get("name") == "the db may� <&>"
    assert (failed[0].tag, failed[0].get("message")) == ("failure", "expected ALLOWED, got DENIED")
    assert "ingress: DENIED, no rule of" in (failed[0].text or "")
    assert wrong[0].tag == "error"


def test_tests_may_stand_in_the_folder_of_what_they_test(tmp_path, tests):
    for file in (SCENE, ONLY_WEB):
        (tmp_path / file.name).write_text(file.read_text())
    tests.write_text(TESTS.splitlines()[1])
    ran = policy("test", "-f", tmp_path, "--tests", tests)
    assert (ran.code, ran.out, ran.err) == (0, "1 passed, 0 failed\n", "")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("- {from: a, to: b, expect: alow}", "[0].expect: unknown outcome 'alow'; did you mean 'allow'?"),
        ("- [", "document 1"),
        ("", "no test: write a list of {from, to, port, expect}"),
    ],
)
def test_a_test_file_that_cannot_be_read_is_wrong_usage(tests, text, told):
    tests.write_text(text)
    ran = policy("test", "-f", SCENE, "--tests", tests)
    assert (ran.code, told in ran.err, ran.out) == (2, True, "")


def test_a_missing_file_is_wrong_usage_and_a_wrong_policy_is_a_failure(tests, tmp_path):
    assert policy("test", "-f", SCENE, "--tests", tmp_path / "none.yaml").code == 2
    assert policy("test", "-f", SCENE, "--tests", tests, "--junit", tmp_path / "no/such/folder.xml").code == 2
    bad = tmp_path / "bad.yml"
    bad.write_text(ONLY_WEB.read_text().replace("ingress", "ingres"))
    assert policy("test", "-f", SCENE, bad, "--tests", tests).code == 1
