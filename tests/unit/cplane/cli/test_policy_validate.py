"""`policy validate`: everything at once, with places and what to do."""

import json

import pytest
import yaml

from tests.support.offline import GOLDEN, policy

GOOD = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: good, namespace: shop}
spec:
  endpointSelector: {}
  ingress: [{fromEndpoints: [{}]}]
"""
BAD = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: bad, namespace: shop}
spec:
  endpointSelector: {}
  ingres: [{}]
  egress: [{toEntities: [wrold]}]
"""
ODD = GOOD.replace("good", "odd").replace("ingress: [{fromEndpoints: [{}]}]", "ingress: []\n  egress: [{}]")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.yaml").write_text(f"{GOOD}---{BAD}")
    (tmp_path / "b.yaml").write_text(f"{ODD}---\nkind: ConfigMap\napiVersion: v1\nmetadata: {{name: x}}\n")
    return tmp_path


def test_a_sound_folder_is_said_to_be_sound():
    ran = policy("validate", "-f", GOLDEN / "recipes/deny-other-namespaces/policy.yaml")
    assert (ran.code, ran.out) == (0, "1 object, 1 sound policy: 0 errors, 0 warnings, 0 notes\n")


def test_all_errors_of_all_files_come_at_once_with_places_and_advice(folder):
    ran = policy("validate", "-f", folder)
    lines = ran.out.splitlines()
    assert lines[0] == (f"error    {folder}/a.yaml, document 2, spec.ingres: unknown field; did you mean 'ingress'?")
    assert lines[1].startswith(f"error    {folder}/a.yaml, document 2, spec.egress[0].toEntities[0]: unknown entity")
    assert lines[2].startswith(f"warning  {folder}/b.yaml, document 1, spec.ingress: an empty list changes nothing")
    assert lines[3] == "note     ignored objects that mean nothing to policies: 1 ConfigMap"
    assert lines[4] == "4 objects, 2 sound policies: 2 errors, 1 warning, 0 notes"
    assert ran.code == 1


def test_policies_of_other_apis_are_warned_of(tmp_path):
    foreign = "apiVersion: projectcalico.org/v3\nkind: GlobalNetworkPolicy\nmetadata: {name: x}\n"
    (tmp_path / "a.yaml").write_text(f"{GOOD}---\n{foreign}")
    ran = policy("validate", "-f", tmp_path)
    assert ran.out.startswith(
        f"warning  {tmp_path}/a.yaml, document 2, kind: GlobalNetworkPolicy (projectcalico.org/v3)"
    )
    assert (ran.code, policy("validate", "-f", tmp_path, "--strict").code) == (0, 1)


def test_findings_are_objects_for_programs(folder):
    ran = policy("validate", "-f", folder, "-o", "json")
    answer = json.loads(ran.out)
    assert (answer["valid"], answer["errors"], answer["warnings"], answer["ignored"]) == (False, 2, 1, {"ConfigMap": 1})
    assert answer["findings"][0] == {
        "level": "error",
        "file": f"{folder}/a.yaml",
        "document": 2,
        "path": "spec.ingres",
        "message": "unknown field",
        "suggestion": "did you mean 'ingress'?",
    }


def test_the_same_can_be_had_as_yaml(folder, monkeypatch):
    answer = json.loads(policy("validate", "-f", folder, "-o", "json").out)
    assert yaml.safe_load(policy("validate", "-f", folder, "-o", "yaml").out) == answer
    monkeypatch.setenv("CPLANE_OUTPUT", "yaml")
    assert yaml.safe_load(policy("validate", "-f", folder).out) == answer


def test_warnings_are_errors_only_when_it_is_strict(folder):
    file = folder / "b.yaml"
    assert policy("validate", "-f", file).code == 0
    strict = policy("validate", "-f", file, "--strict", "-o", "json")
    assert (strict.code, json.loads(strict.out)["valid"]) == (1, False)
    assert policy("validate", "-f", GOLDEN / "shop", "--strict").code == 0


def test_what_is_not_enforced_yet_is_a_note():
    ran = policy("validate", "-f", GOLDEN / "shop", "-o", "json")
    notes = [one for one in json.loads(ran.out)["findings"] if one["level"] == "note"]
    assert any(one["path"] == "spec.nodeSelector" and "refuses the policy" in one["message"] for one in notes)
    assert ran.code == 0


def test_pods_tell_which_selectors_select_nothing():
    scene = GOLDEN / "truth/scene.yaml"
    odd = GOOD.replace("endpointSelector: {}", "endpointSelector: {matchLabels: {app: wbe}}")
    assert policy("validate", "-f", "-", stdin=odd).out.endswith("0 errors, 0 warnings, 0 notes\n")
    ran = policy("validate", "-f", scene, "-", stdin=odd)
    assert "warning  <stdin>, document 1, spec.endpointSelector: selects no pod of these manifests: app=wbe" in ran.out


def test_text_that_would_move_a_terminal_is_shown_plainly():
    ran = policy("validate", "-f", "-", stdin=GOOD.replace("name: good", 'name: "a\\eb"'))
    assert "\x1b" not in ran.out
    assert ran.code == 1


@pytest.mark.parametrize(
    ("stdin", "told"),
    [
        (b"", "0 objects, 0 sound policies"),
        (b"\xff", "not UTF-8"),
        (b"a: &a [x]\n" + b"".join(b"b%d: [*a, *a]\n" % n for n in range(3)), "not of Kubernetes"),
        (b"- kind: CiliumNetworkPolicy", "an object is wanted"),
        (b"[" * 100 + b"]" * 100, "nested deeper than 64 levels"),
        (b"x" * 10_000_001, "are too many, the limit is 10000000"),
    ],
)
def test_texts_that_are_no_manifests_are_answered(stdin, told):
    assert told in policy("validate", "-f", "-", stdin=stdin).out


def test_several_values_may_follow_the_name_of_an_option(folder):
    once = policy("validate", "-f", folder / "a.yaml", folder / "b.yaml", "--strict")
    again = policy("validate", "-f", folder / "a.yaml", "--file", folder / "b.yaml", "--strict")
    assert once == again == policy("validate", f"--file={folder / 'a.yaml'}", folder / "b.yaml", "--strict")


def test_a_folder_without_manifests_is_wrong_usage(tmp_path):
    ran = policy("validate", "-f", tmp_path)
    assert (ran.code, "the folder has no .json, .yaml, .yml file" in ran.err) == (2, True)
