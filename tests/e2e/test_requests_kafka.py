"""Service1 may produce to topic1, service2 may consume it, all other Kafka is refused: pods and a real broker."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from tests.support.kafka_clients import CLIENTS, consume, produce
from tests.support.kafka_site import broker_at
from tests.support.site import Site, policy, site

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0, reason="making network namespaces needs root"),
]

# A client that asks for a number first, so that nothing is taken twice, is refused that.
REFUSALS = {
    *("TOPIC_AUTHORIZATION_FAILED", "TopicAuthorizationFailedError"),
    *("ClusterAuthorizationFailedError", "KafkaError"),
}
MISSION = """
ingress:
- fromEndpoints: [{matchLabels: {app: service1}}]
  toPorts:
  - ports: [{port: "9092", protocol: TCP}]
    rules: {kafka: [{role: produce, topic: topic1}]}
- fromEndpoints: [{matchLabels: {app: service2}}]
  toPorts:
  - ports: [{port: "9092", protocol: TCP}]
    rules: {kafka: [{role: consume, topic: topic1}]}
"""


@pytest.fixture(scope="module")
def place(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("kafka")
    with site(folder / "site", programs, ("service1", "service2")) as made:
        made.pods.add("broker", serve=False)
        broker = made["broker"]
        with broker_at(broker.netns, broker.ipv4, folder):

            def topics() -> None:
                admin = AdminClient({"bootstrap.servers": f"{broker.ipv4}:9092"})
                for one in admin.create_topics([NewTopic(name, 1, 1) for name in ("topic1", "topic2")]).values():
                    one.result(20)

            made["service1"].netns.run(topics)
            made.apply(policy("kafka", "broker", MISSION))
            yield made


@pytest.mark.parametrize("client", CLIENTS)
def test_what_the_policy_says_of_topics_holds_between_pods(place: Site, client: str) -> None:
    server = f"{place['broker'].ipv4}:9092"
    one, two = place["service1"].netns, place["service2"].netns
    value = os.urandom(8).hex()
    assert produce(one, client, "topic1", value, server) == ""
    found = consume(two, client, "topic1", f"group-{client}", server)
    while found and value not in found:  # what the other clients have produced comes first
        found = consume(two, client, "topic1", f"group-{client}", server)
    assert value in found
    assert produce(one, client, "topic2", value, server) in REFUSALS
    assert produce(two, client, "topic1", value, server) in REFUSALS
    flows = place.agent.flows("--type", "l7", "--last", "500")
    said = {(one["source"]["pod_name"], one["verdict"], one["l7"]["kafka"].get("topic", "")) for one in flows}
    assert {("service1", "FORWARDED", "topic1"), ("service2", "DROPPED", "topic1")} <= said
    assert ("service1", "DROPPED", "topic2") in said


def test_others_reach_no_broker(place: Site) -> None:
    server = f"{place['broker'].ipv4}:9092"
    assert not place["host"].reach(place["broker"].ipv4, port=9093, timeout_s=0.5)
    assert produce(place["service1"].netns, "confluent", "topic1", "x", server) == ""


def test_beside_rules_of_http_nothing_passes_until_these_are_gone(place: Site) -> None:
    server = f"{place['broker'].ipv4}:9092"
    one, other = place["service1"].netns, place["service2"].netns
    http = MISSION.split("- fromEndpoints")[1].replace("kafka: [{role: produce, topic: topic1}]", "http: [{}]")
    try:
        place.apply(policy("http", "broker", f"ingress:\n- fromEndpoints{http}"))
        assert produce(one, "confluent", "topic1", "x", server) != ""
        assert produce(other, "confluent", "topic1", "x", server) in REFUSALS, "of whom HTTP is not asked"
    finally:
        place.agent.cplane("policy", "delete", "http", "-n", "demo", "--wait")
    assert produce(one, "confluent", "topic1", "x", server) == ""
    assert produce(one, "confluent", "topic2", "x", server) in REFUSALS
