"""Policies, identities and subjects come and go; the revision counts."""

from cplane.domain.identity import Reserved
from cplane.domain.policy.mapstate import MapKey
from cplane.domain.policy.repository import Repository
from tests.support.builders import cnp, pod_labels, policy, ports, selector

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
    assert not drained(repo)


def test_an_endpoint_without_labels_is_closed_but_for_the_host():
    repo = Repository()
    repo.add_subject(Reserved.INIT, Reserved.INIT.labels)
    assert set(repo.state(Reserved.INIT).entries()) == {MapKey(1, 0, 0, 0, 0)}


def drained(repo):
    return [(subject, key) for subject, state in repo.changed() for key, _ in state.changes()]
