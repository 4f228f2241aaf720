"""Policies, identities and subjects come and go; the revision counts."""

import pytest

from cplane.domain.identity import Reserved, cidr_labels
from cplane.domain.labels import LabelSet
from cplane.domain.policy.directory import Service
from cplane.domain.policy.mapstate import MapKey
from cplane.domain.policy.repository import AUDIT_PLANE, Enforcement, Repository
from cplane.domain.ports import parse_named_ports
from cplane.domain.verdict import Direction
from tests.support.builders import audited, cnp, group, parsed, pod_labels, policy, ports, selector

FROM_WEB = {"fromEndpoints": [selector("app=web")]}


def test_the_revision_grows_only_when_rules_change():
    repo = Repository()
    assert repo.revision == 1
    document = policy(cnp("a", ingress=[FROM_WEB]))
    repo.upsert(document)
    repo.upsert(document)
    assert repo.revision == 2
    repo.upsert(policy(cnp("a", ingress=[{}])))
    repo.delete(document.ref)
    repo.delete(document.ref)
    assert repo.revision == 4


def test_a_rule_that_stays_is_not_touched_when_its_neighbour_changes():
    repo = Repository()
    repo.add_identity(300, pod_labels("app=web"))
    repo.add_subject(301, pod_labels("app=api"))
    document = cnp("a", ingress=[{**FROM_WEB, "toPorts": ports("80/TCP")}])
    document["specs"] = [cnp(egress=[{}])["spec"]]
    repo.upsert(policy(document))
    drained(repo)
    document["specs"] = [cnp(egress=[{"toPorts": ports("53/UDP")}])["spec"]]
    repo.upsert(policy(document))
    assert set(drained(repo)) == {(301, MapKey(0, 1, 17, 53, 24))}


def test_a_subject_meets_the_rules_that_were_there_before_it():
    repo = Repository()
    repo.upsert(policy(cnp("a", ingress=[FROM_WEB])))
    repo.add_identity(300, pod_labels("app=web"))
    repo.add_subject(301, pod_labels("app=api"))
    assert repo.state(301).entry(MapKey(300, 0, 0, 0, 0)) is not None
    assert repo.state(301).entry(MapKey(0, 0, 0, 0, 0)) is None
    repo.remove_subject(301)
    assert repo.state(301) is None
    repo.remove_identity(300)
    assert all(entry is None for _, _, _, entry in repo.changes())
    assert not drained(repo)


def test_an_endpoint_without_labels_is_closed_but_for_the_host():
    repo = Repository()
    repo.add_subject(Reserved.INIT, Reserved.INIT.labels)
    assert set(repo.state(Reserved.INIT).entries()) == {MapKey(1, 0, 0, 0, 0)}


def drained(repo):
    return [(subject, key) for subjects, key, _, _ in repo.changes() for subject in subjects]


WEB, API, PLANE = 300, 301, 301 | AUDIT_PLANE
FROM_WEB_KEY = MapKey(WEB, 0, 0, 0, 0)
ANYONE_IN = MapKey(0, 0, 0, 0, 0)


def world(*documents):
    repo = Repository()
    repo.add_identity(WEB, pod_labels("app=web"))
    repo.add_identity(302, pod_labels("app=db"))
    repo.add_subject(API, pod_labels("app=api"))
    for document in documents:
        repo.upsert(policy(document))
    drained(repo)
    return repo


def follow(repo, rows):
    for subjects, key, was, entry in repo.changes():
        for subject in subjects:
            assert rows.get((subject, key)) == was
            if entry is None:
                rows.pop((subject, key), None)
            else:
                rows[subject, key] = entry
    return rows


def test_a_policy_that_is_only_audited_is_in_a_plane_of_its_own():
    repo = world(cnp("a", ingress=[FROM_WEB]), audited(cnp("b", ingressDeny=[FROM_WEB])))
    plain, plane = repo.state(API), repo.state(PLANE)
    assert not plain.entry(FROM_WEB_KEY).deny
    assert plain.entry(FROM_WEB_KEY).audited
    assert plane.entry(FROM_WEB_KEY).deny
    assert [one.ref.name for one in plain.demanding(Direction.INGRESS)] == ["a"]
    assert [one.ref.name for one in plane.demanding(Direction.INGRESS)] == ["a", "b"]
    assert list(repo.subjects()) == [API]


def test_a_policy_that_comes_to_be_enforced_leaves_no_plane_and_no_trace_of_one():
    repo = world()
    rows = {(API, key): entry for key, entry in repo.state(API).entries().items()}
    document = cnp("a", ingress=[FROM_WEB])
    repo.upsert(policy(audited(document)))
    assert {subject for subject, _ in follow(repo, rows)} == {API, PLANE}
    repo.upsert(policy(document))
    assert {subject for subject, _ in follow(repo, rows)} == {API}
    assert not any(entry.audited for entry in rows.values())
    assert (API, FROM_WEB_KEY) in rows


def test_an_audited_policy_that_changes_and_then_goes_between_two_looks_leaves_nothing():
    repo = world()
    rows = {(API, key): entry for key, entry in repo.state(API).entries().items()}
    repo.upsert(policy(audited(cnp("a", ingress=[FROM_WEB]))))
    follow(repo, rows)
    repo.upsert(policy(audited(cnp("a", ingress=[{}]))))
    repo.delete(policy(cnp("a", ingress=[{}])).ref)
    assert follow(repo, rows) == {(API, key): entry for key, entry in repo.state(API).entries().items()}


def test_a_subject_that_comes_later_has_its_plane_from_the_start():
    repo = world(audited(cnp("a", subject={}, ingress=[{}])))
    assert repo.state(PLANE) is not None
    repo.add_subject(WEB, pod_labels("app=web"))
    assert repo.state(WEB | AUDIT_PLANE).entry(ANYONE_IN) is None
    assert repo.state(WEB).entry(ANYONE_IN).audited
    repo.remove_subject(WEB)
    assert repo.state(WEB | AUDIT_PLANE) is None


@pytest.mark.parametrize(
    ("mode", "init", "keys"),
    [
        (Enforcement.DEFAULT, False, {ANYONE_IN}),
        (Enforcement.DEFAULT, True, set()),
        (Enforcement.ALWAYS, False, set()),
        (Enforcement.NEVER, True, {ANYONE_IN}),
    ],
)
def test_the_mode_and_missing_labels_decide_about_a_subject_without_rules(mode, init, keys):
    repo = Repository(mode)
    labels = Reserved.INIT.labels if init else pod_labels("app=api")
    repo.add_subject(API, labels)
    assert {key for key in repo.state(API).entries() if key.direction == 0 and not key.identity} == keys


def test_a_change_of_the_mode_changes_every_subject_and_back():
    repo = world(cnp("a", ingress=[FROM_WEB]), audited(cnp("b", egress=[{}])))
    before = {number: dict(repo.state(number).entries()) for number in (API, PLANE)}
    repo.set_enforcement(Enforcement.NEVER)
    assert repo.state(PLANE) is None
    assert repo.state(API).entry(ANYONE_IN) is not None
    assert repo.about(API) == ()
    repo.upsert(policy(cnp("c", ingress=[{}])))
    repo.delete(policy(cnp("c", ingress=[{}])).ref)
    repo.set_enforcement(Enforcement.NEVER)
    repo.set_enforcement(Enforcement.DEFAULT)
    assert {number: repo.state(number).entries() for number in (API, PLANE)} == before
    assert sorted(one.ref.name for one in repo.about(API)) == ["a", "b"]


@pytest.mark.parametrize(("text", "mode"), [("default", "default"), ("never", "never"), ("sometimes", "always")])
def test_a_mode_that_is_not_known_any_more_is_the_strictest(text, mode):
    assert Enforcement.read(text) == mode


def test_ports_of_a_peer_may_be_known_before_and_after_it():
    document = cnp("a", egress=[{"toEndpoints": [{}], "toPorts": ports("http/TCP")}])
    repo = Repository()
    repo.set_ports(WEB, parse_named_ports(["http=80/TCP"]))
    repo.add_subject(API, pod_labels("app=api"))
    repo.upsert(policy(document))
    repo.add_identity(WEB, pod_labels("app=web"))
    key = MapKey(WEB, 1, 6, 80, 24)
    assert repo.state(API).entry(key) is not None
    drained(repo)
    repo.set_ports(WEB, parse_named_ports(["http=80/TCP"]))
    assert not drained(repo)
    repo.set_ports(WEB, parse_named_ports(["http=81/TCP"]))
    assert sorted(drained(repo)) == [(API, key), (API, key._replace(port=81))]
    assert repo.state(API).entry(key) is None
    repo.set_ports(WEB, parse_named_ports([]))
    assert not any(one.port for one in repo.state(API).entries())


def test_a_group_that_comes_changes_and_goes_moves_the_rules_that_refer_to_it():
    repo = world(cnp("a", egress=[{"toCIDRSet": [{"cidrGroupRef": "g"}]}]))
    prefixes = [parsed(group("x", text)).prefixes[0] for text in ("10.0.0.0/8", "192.0.2.0/24")]
    for number, prefix in enumerate(prefixes, 1 << 24 | 1):
        repo.add_identity(number, cidr_labels(prefix, dual_stack=True), prefix)

    def reached():
        return {key.identity for key in repo.state(API).entries() if key.direction == 1}

    assert reached() == set()
    repo.set_group("g", parsed(group("g", "10.0.0.0/8")))
    assert reached() == {1 << 24 | 1}
    repo.set_group("g", parsed(group("g", "192.0.2.0/24")))
    assert reached() == {1 << 24 | 2}
    repo.set_group("g", None)
    assert reached() == set()


def test_a_service_that_comes_and_changes_moves_the_rules_that_refer_to_it():
    repo = world(cnp("a", egress=[{"toServices": [{"k8sService": {"serviceName": "s"}}]}]))

    def reached():
        return {key.identity for key in repo.state(API).entries() if key.direction == 1}

    assert reached() == set()
    repo.set_service(Service("shop", "s", LabelSet(), (("app", "web"),)))
    assert reached() == {WEB}
    repo.set_service(Service("shop", "s", LabelSet(), (("app", "db"),)))
    assert reached() == {302}
    repo.set_service(Service("shop", "s"))
    assert reached() == set()


def test_rules_that_refer_to_nothing_stay_as_they_are_when_a_group_changes():
    repo = world(cnp("a", ingress=[FROM_WEB]))
    repo.set_group("g", parsed(group("g", "10.0.0.0/8")))
    assert not drained(repo)
