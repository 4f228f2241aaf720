"""`policy eval`: a line in, a line out, in order; and the golden folders."""

import json
import subprocess
import sys
from time import perf_counter

import pytest

from tests.support.offline import GOLDEN, policy
from tests.support.tree import ROOT

TRUTH = GOLDEN / "truth"
SHOP = GOLDEN / "shop"
SCENE = TRUTH / "scene.yaml"
CLOSED = TRUTH / "02-an-empty-rule/policy.yaml"
PROBE = '{"from": "shop/web", "to": "shop/api", "port": 80}\n'
MODES = {
    "15-always": ("--enforcement", "always"),
    "15-never": ("--enforcement", "never"),
    "19-an-audited-endpoint": ("--audit", "shop/api"),
}


@pytest.mark.parametrize("case", sorted(one.name for one in TRUTH.iterdir() if one.is_dir()))
def test_the_known_cases_have_their_known_verdicts(case):
    files = [SCENE, *(TRUTH / case).glob("policy.yaml")]
    ran = policy("test", "-f", *files, "--tests", TRUTH / case / "tests.yaml", *MODES.get(case, ()))
    assert (ran.code, ran.err) == (0, ""), ran.out


@pytest.mark.parametrize("case", sorted(one.name for one in (GOLDEN / "recipes").iterdir() if one.is_dir()))
def test_recipes_of_network_policies_do_what_they_say(case):
    folder = GOLDEN / "recipes" / case
    ran = policy("test", "-f", folder.parent / "scene.yaml", folder, "--tests", folder / "tests.yaml")
    assert (ran.code, ran.err) == (0, ""), ran.out


def test_the_shop_has_its_known_verdicts():
    ran = policy("test", "-f", SHOP, "--tests", SHOP / "tests.yaml")
    assert ran.code == 0, ran.out


def test_the_shop_is_answered_word_for_word():
    ran = policy("eval", "-f", SHOP, "--probes", SHOP / "probes.jsonl")
    assert ran.code == 1  # some lines are no probes
    assert ran.out.splitlines() == (SHOP / "answers.jsonl").read_text().splitlines()
    assert ran.err.startswith("cplane: ignored objects that mean nothing to policies: 1 ConfigMap")


def test_an_answer_has_the_verdict_of_both_sides_and_their_rules():
    ran = policy("eval", "-f", SCENE, CLOSED, "--probes", "-", stdin=PROBE)
    answer = json.loads(ran.out)
    assert list(answer) == ["verdict", "l7", "egress", "ingress"]
    assert (answer["verdict"], answer["l7"]) == ("DENIED", False)
    assert answer["egress"]["verdict"] == "ALLOWED"
    assert list(answer["ingress"]) == ["verdict", "reason", "rules"]
    assert answer["ingress"]["rules"] == [
        {
            "kind": "CiliumNetworkPolicy",
            "namespace": "shop",
            "name": "p",
            "path": "spec",
            "selector": "app=api,k8s:io.kubernetes.pod.namespace=shop",
        }
    ]
    assert ran.code == 0


def test_lines_that_are_no_probes_are_answered_in_their_place_and_the_exit_code_is_1():
    ran = policy("eval", "-f", SCENE, "--probes", "-", stdin=f"{PROBE}\nnonsense\n{PROBE.replace('web', 'x')}{PROBE}")
    answers = [json.loads(line) for line in ran.out.splitlines()]
    assert [next(iter(one)) for one in answers] == ["verdict", "error", "error", "verdict"]
    assert answers[1]["error"].startswith("line 3: not a probe: ")
    assert answers[2]["error"].startswith("line 4: there is no pod 'shop/x'")
    assert ran.code == 1


def test_the_last_line_needs_no_end():
    assert len(policy("eval", "-f", SCENE, "--probes", "-", stdin=PROBE + PROBE.strip()).out.splitlines()) == 2


def test_answers_can_be_read_by_people():
    ran = policy("eval", "-f", SCENE, CLOSED, "--probes", "-", "-o", "table", stdin=f"{PROBE}x\n")
    first, second, third = ran.out.splitlines()
    assert first == f"DENIED        {PROBE.strip()}"
    assert second.startswith(
        "              ingress: no rule of CiliumNetworkPolicy shop/p allows 80/TCP from identity "
    )
    assert third.startswith("ERROR         line 2: ")


@pytest.mark.parametrize(
    ("arguments", "stdin", "code", "told"),
    [
        (("-f", "/no/such", "--probes", "-"), "", 2, "/no/such: No such file or directory"),
        (("-f", SCENE, "--probes", "/no/such"), "", 2, "/no/such: No such file or directory"),
        (("-f", "-", "--probes", "-"), "", 2, "standard input cannot hold both"),
        (("-f", SCENE), "", 2, "Missing option '--probes'"),
        (("-f", SCENE, "--probes", "-", "--audit", "shop/x"), "", 2, "there is no pod 'shop/x'"),
        (("-f", "-", "--probes", SHOP / "probes.jsonl"), "kind: Pod", 1, "<stdin>, document 1, metadata.name: missing"),
        (("-f", "-", "--probes", SHOP / "probes.jsonl"), "a: [", 1, "<stdin>, document 1"),
    ],
)
def test_the_exit_code_tells_wrong_manifests_from_wrong_usage(arguments, stdin, code, told):
    if stdin == "kind: Pod":
        stdin = "{apiVersion: v1, kind: Pod}"
    ran = policy("eval", *arguments, stdin=stdin)
    assert (ran.code, told in ran.err, ran.out) == (code, True, "")


def test_a_policy_that_is_wrong_is_never_left_out(tmp_path):
    (tmp_path / "bad.yaml").write_text(CLOSED.read_text().replace("ingress", "ingres"))
    ran = policy("eval", "-f", SCENE, tmp_path, "--probes", "-", stdin=PROBE)
    assert (ran.code, ran.out) == (1, "")
    assert "bad.yaml, document 1, spec.ingres: unknown field; did you mean 'ingress'?" in ran.err


def test_folders_are_read_without_what_is_hidden_and_files_once(tmp_path):
    for name in ("a.yaml", "b/c.yml", ".git/d.yaml", "b/.e.yaml"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{{apiVersion: v1, kind: Namespace, metadata: {{name: n{len(name)}}}}}")
    (tmp_path / "f.json").write_text('{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "j"}}')
    (tmp_path / "notes.txt").write_text("no manifest")
    ran = policy("validate", "-f", tmp_path, tmp_path / "a.yaml")
    assert ran.out == "3 objects, 0 sound policies: 0 errors, 0 warnings, 0 notes\n"


@pytest.mark.slow
def test_whoever_asks_one_by_one_is_answered_one_by_one():
    command = [sys.executable, "-m", "cplane.cli.main", "policy", "eval", "-f", str(SCENE), "--probes", "-"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(PROBE.encode())
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["verdict"] == "ALLOWED"
        process.stdin.close()
        assert process.wait() == 0


@pytest.mark.slow
def test_many_probes_are_answered_quickly(tmp_path, record_property):
    pods = ("shop/web", "shop/api", "shop/db", "other/web", "node/n1", "203.0.113.7")
    rows = [
        {"from": one, "to": other, "port": port}
        for port in range(1, 1001)
        for one in pods
        for other in pods
        if other != "203.0.113.7"
    ]
    (tmp_path / "probes").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    began = perf_counter()
    ran = policy("eval", "-f", SCENE, TRUTH / "16-a-range/policy.yaml", "--probes", tmp_path / "probes")
    record_property("probes_per_s", round(len(rows) / (perf_counter() - began)))
    assert len(ran.out.splitlines()) == len(rows)
