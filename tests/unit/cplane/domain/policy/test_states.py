"""Who shares a map state, and that each hears of its own changes all the same."""

from cplane.domain.policy.repository import AUDIT_PLANE, Repository
from tests.support.builders import audited, cnp, pod_labels, policy, selector

WEB, API, DB = 300, 301, 302
API_OR_DB = {"matchExpressions": [{"key": "app", "operator": "In", "values": ["api", "db"]}]}
FROM_WEB = {"fromEndpoints": [selector("app=web")]}


class Follower:
    """A repository with three subjects, and what its changes have led to."""

    def __init__(self) -> None:
        self.repository = Repository()
        self.rows = {}
        for number, app in ((WEB, "web"), (API, "api"), (DB, "db")):
            self.repository.add_identity(number, pod_labels(f"app={app}"))
            self.repository.add_subject(number, pod_labels(f"app={app}"))

    def apply(self, document) -> None:
        self.repository.upsert(policy(document))

    def follow(self) -> set[int]:
        """Whom the changes since the last time are about; they lead to what the states hold."""
        about = set()
        for numbers, key, was, now in self.repository.changes():
            assert was != now
            for number in numbers:
                assert self.rows.pop((number, key), None) == was
                if now is not None:
                    self.rows[number, key] = now
            about.update(numbers)
        held = self.repository.states()
        assert self.rows == {(n, key): entry for n, state in held.items() for key, entry in state.entries().items()}
        return about

    def shared(self, *numbers: int) -> bool:
        return len({id(self.repository.state(number)) for number in numbers}) == 1


def test_subjects_without_rules_share_a_state():
    follower = Follower()
    assert follower.shared(WEB, API, DB)
    assert follower.follow() == {WEB, API, DB}


def test_a_rule_about_one_sets_it_apart_and_without_the_rule_it_is_like_the_others_again():
    follower = Follower()
    follower.follow()
    own = cnp("own", subject=selector("app=api"), ingress=[FROM_WEB])
    follower.apply(own)
    assert follower.follow() == {API}
    assert not follower.shared(API, WEB)
    assert follower.shared(WEB, DB)
    follower.repository.delete(policy(own).ref)
    assert follower.follow() == {API}
    assert follower.shared(WEB, API, DB)


def test_a_rule_about_all_is_worked_out_once_and_told_to_each():
    follower = Follower()
    follower.follow()
    follower.apply(cnp("all", subject={}, ingress=[FROM_WEB]))
    assert follower.shared(WEB, API, DB)
    assert follower.follow() == {WEB, API, DB}


def test_those_who_come_to_have_the_same_rules_on_different_ways_share_a_state():
    follower = Follower()
    follower.apply(cnp("b", subject=selector("app=api"), ingress=[FROM_WEB]))
    follower.apply(cnp("a", subject={}, egress=[{"toEntities": ["host"]}]))
    follower.follow()
    assert not follower.shared(API, DB)
    follower.apply(cnp("b", subject=API_OR_DB, ingress=[FROM_WEB]))
    assert follower.follow() == {DB}  # to the other one nothing has changed
    assert follower.shared(API, DB)
    assert not follower.shared(API, WEB)


def test_changes_before_and_after_a_state_is_left_are_each_told_once():
    follower = Follower()
    follower.follow()
    follower.apply(cnp("all", subject={}, ingress=[FROM_WEB]))  # nobody has heard of it when one leaves
    own = cnp("own", subject=selector("app=db"), ingressDeny=[FROM_WEB])
    follower.apply(own)
    follower.repository.remove_identity(WEB)
    follower.repository.delete(policy(own).ref)
    follower.repository.add_identity(WEB, pod_labels("app=web"))
    assert follower.follow() == {WEB, API, DB}
    assert follower.shared(WEB, API, DB)


def test_a_subject_that_comes_to_a_state_hears_all_of_it_and_one_that_goes_leaves_nothing():
    follower = Follower()
    follower.apply(cnp("all", subject={}, ingress=[FROM_WEB]))
    follower.follow()
    follower.repository.add_subject(303, pod_labels("app=new"))
    assert follower.follow() == {303}
    assert follower.shared(303, WEB)
    follower.repository.remove_subject(WEB)
    assert follower.follow() == {WEB}
    assert follower.repository.state(WEB) is None


def test_audit_sets_apart_those_whom_it_is_about():
    follower = Follower()
    follower.follow()
    trial = audited(cnp("trial", subject=API_OR_DB, ingress=[FROM_WEB]))
    follower.apply(trial)
    assert follower.follow() == {API, DB, API | AUDIT_PLANE, DB | AUDIT_PLANE}
    assert follower.shared(API, DB)
    assert follower.shared(API | AUDIT_PLANE, DB | AUDIT_PLANE)
    assert not follower.shared(API, WEB)
    follower.repository.delete(policy(trial).ref)
    follower.follow()
    assert follower.shared(WEB, API, DB)
