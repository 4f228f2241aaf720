"""A client of delta ADS: what is sent, in which order, and what a refusal means."""

from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import status_pb2

from cplane.xds.delta import Client
from cplane.xds.messages import CLUSTER, LISTENER, ROUTES, SECRET, TYPES, Key, Resource


class Envoy:
    """The other side: it takes what it is sent, unless its name is in `bad`."""

    def __init__(self, *bad: str) -> None:
        self.bad = set(bad)
        self.held: dict[Key, str] = {}
        self.sent: list[tuple[str, list[str], list[str]]] = []
        self.client = Client()

    def ask(self, type_url: str, *names: str, initial: dict[str, str] | None = None) -> None:
        self.client.receive(
            discovery_pb2.DeltaDiscoveryRequest(
                type_url=type_url, resource_names_subscribe=names, initial_resource_versions=initial or {}
            )
        )

    def run(self, wanted: "Wanted") -> list[tuple[str, list[str], list[str]]]:
        """What was sent until nothing is left to be, by type: names, and names that were removed."""
        self.sent = []
        while found := list(self.client.responses(wanted)):
            for one in found:
                self._take(one)
        return self.sent

    def _take(self, one: discovery_pb2.DeltaDiscoveryResponse) -> None:
        names = [r.name for r in one.resources]
        self.sent.append((one.type_url, names, list(one.removed_resources)))
        reply = discovery_pb2.DeltaDiscoveryRequest(type_url=one.type_url, response_nonce=one.nonce)
        if bad := self.bad & set(names):
            reply.error_detail.CopyFrom(status_pb2.Status(code=3, message=f"bad: {sorted(bad)}"))
        else:
            self.held.update((Key(one.type_url, r.name), r.version) for r in one.resources)
        for name in one.removed_resources:
            self.held.pop(Key(one.type_url, name), None)
        self.client.receive(reply)


Wanted = dict[str, dict[str, Resource]]


def wanted(**versions: str) -> Wanted:
    """Listeners with route configurations of the same names."""
    made: Wanted = {one: {} for one in TYPES}
    for name, version in versions.items():
        for kind in (LISTENER, ROUTES):
            made[kind][name] = Resource(Key(kind, name), version, b"")
    return made


def change(envoy: Envoy, held: Wanted, **versions: str) -> None:
    """What is wanted is this."""
    new = wanted(**versions)
    for kind in TYPES:
        for name in held[kind].keys() | new[kind].keys():
            if held[kind].get(name) != new[kind].get(name):
                envoy.client.touch(Key(kind, name))
        held[kind].clear()
        held[kind].update(new[kind])


def started(*bad: str, **versions: str) -> tuple[Envoy, Wanted]:
    envoy, held = Envoy(*bad), wanted(**versions)
    envoy.ask(LISTENER)
    envoy.ask(ROUTES, *versions)
    envoy.run(held)
    return envoy, held


def test_nothing_is_sent_before_it_is_asked_for():
    envoy = Envoy()
    assert envoy.run(wanted(a="1")) == []
    envoy.ask(LISTENER)
    assert envoy.run(wanted(a="1")) == [(LISTENER, ["a"], [])]


def test_routes_are_sent_when_they_are_named_and_before_listeners():
    envoy = Envoy()
    envoy.ask(LISTENER)
    envoy.ask(ROUTES, "a")
    assert envoy.run(wanted(a="1", b="1")) == [(ROUTES, ["a"], []), (LISTENER, ["a", "b"], [])]


def test_a_change_is_sent_once_and_alone():
    envoy, held = started(a="1", b="1")
    assert envoy.run(held) == []
    change(envoy, held, a="2", b="1")
    assert envoy.run(held) == [(ROUTES, ["a"], []), (LISTENER, ["a"], [])]
    assert envoy.run(held) == []


def test_what_is_gone_is_removed_but_routes_stay_for_connections_that_drain():
    envoy, held = started(a="1", b="1")
    change(envoy, held, b="1")
    assert envoy.run(held) == [(LISTENER, [], ["a"])]
    assert envoy.client.gone(Key(LISTENER, "a"))


def test_a_client_that_has_it_all_is_sent_what_has_changed():
    envoy, held = Envoy(), wanted(same="1", other="2")
    envoy.ask(LISTENER, initial={"same": "1", "other": "1", "gone": "1"})
    assert envoy.run(held) == [(LISTENER, ["other"], ["gone"])]
    assert envoy.client.has(held[LISTENER]["same"])


def test_of_resources_that_are_refused_together_the_bad_one_is_found():
    envoy, held = started("b", a="1", b="1", c="1")
    assert {key.name for key in envoy.held if key.type_url == LISTENER} == {"a", "c"}
    assert [envoy.client.refused(held[LISTENER][name]) for name in "abc"] == ["", "bad: ['b']", ""]
    assert envoy.run(held) == []  # and is not sent again


def test_what_was_refused_is_sent_again_when_it_is_another():
    envoy, held = started("b", a="1", b="1")
    envoy.bad.clear()
    change(envoy, held, a="1", b="2")
    assert envoy.run(held) == [(ROUTES, ["b"], []), (LISTENER, ["b"], [])]
    assert envoy.client.refused(held[LISTENER]["b"]) == ""
    assert envoy.client.has(held[LISTENER]["b"])


def test_a_refused_version_does_not_end_the_one_before():
    envoy, held = started(a="1")
    envoy.bad.add("a")
    change(envoy, held, a="2")
    envoy.run(held)
    assert envoy.held[Key(ROUTES, "a")] == "1"
    change(envoy, held, a="1")
    assert envoy.run(held) == []
    assert envoy.client.has(held[ROUTES]["a"])


def test_one_response_of_a_type_is_on_its_way():
    envoy, held = Envoy(), wanted(a="1")
    envoy.ask(LISTENER)
    (first,) = envoy.client.responses(held)
    change(envoy, held, a="2")
    assert list(envoy.client.responses(held)) == []
    envoy._take(first)
    assert envoy.run(held) == [(LISTENER, ["a"], [])]
    assert envoy.held[Key(LISTENER, "a")] == "2"


def test_an_answer_to_something_else_is_not_taken_for_one():
    envoy, held = Envoy(), wanted(a="1")
    envoy.ask(LISTENER)
    list(envoy.client.responses(held))
    envoy.client.receive(discovery_pb2.DeltaDiscoveryRequest(type_url=LISTENER, response_nonce="other"))
    assert not envoy.client.has(held[LISTENER]["a"])


def test_who_asks_again_is_answered_again():
    envoy, held = started(a="1")
    envoy.ask(ROUTES, "a")
    assert envoy.run(held) == [(ROUTES, ["a"], [])]


def test_what_is_not_subscribed_any_more_is_forgotten():
    envoy, held = started(a="1")
    envoy.client.receive(discovery_pb2.DeltaDiscoveryRequest(type_url=ROUTES, resource_names_unsubscribe=["a"]))
    change(envoy, held, a="2")
    assert envoy.run(held) == [(LISTENER, ["a"], [])]


def test_types_that_are_not_ours_are_not_answered():
    envoy = Envoy()
    envoy.ask("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "a")
    assert envoy.run(wanted(a="1")) == []


def test_many_resources_are_sent_in_parts():
    envoy, held = Envoy(), wanted(**{f"n{number}": "1" for number in range(450)})
    envoy.ask(LISTENER)
    assert [len(names) for _, names, _ in envoy.run(held)] == [200, 200, 50]


def test_secrets_come_first_as_others_name_them():
    assert list(TYPES) == [SECRET, CLUSTER, ROUTES, LISTENER]
