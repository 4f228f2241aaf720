"""The Kafka proxy: records of 1 KB that a client produces in batches, through it with one rule, and past it."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from report import Result, WrongError, at_least, ratio_result, spread
from rig import Rig

from cplane.domain.policy.kafka import KafkaRule
from tests.support.kafka_site import BROKER, PORT, KafkaSite, kafka_site

RECORDS: Final = 40_000
ROUNDS: Final = 25
_TOPIC: Final = "topic1"
_VALUE: Final = bytes(1024)
_SERVER: Final = f"{BROKER}:{PORT}"
_PATIENCE_S: Final = 60


def measure(rig: Rig) -> Iterator[Result]:
    """Both ways in turns, as a round of one and of the other stand beside each other. Raises WrongError."""
    folder = Path(rig.folder) / "l7-kafka"
    folder.mkdir(parents=True, exist_ok=True)
    with kafka_site(folder) as site:
        site.at("direct", _make_topic)
        site.allow("service1", KafkaRule(frozenset({0, 3, 18}), topic=_TOPIC))
        ratios: list[float] = []
        for number in range(ROUNDS + 1):
            ways = ("direct", "service1") if number % 2 else ("service1", "direct")
            rates = {way: site.at(way, _produce) for way in ways}
            if number:  # the first is for warming up
                ratios.append(rates["service1"] / rates["direct"])
                rig.say(f"l7: Kafka {rates['service1']:,.0f} records/s, {rates['direct']:,.0f} direct")
        _check(site)
        rig.say(f"l7: Kafka through the proxy by direct: {spread(ratios, 'times')}")
    yield ratio_result("l7.kafka_ratio", ratios, "the same client, direct", at_least(0.75))


def _make_topic() -> None:
    admin = AdminClient({"bootstrap.servers": _SERVER})
    for made in admin.create_topics([NewTopic(_TOPIC, 1, 1)]).values():
        made.result(_PATIENCE_S)


def _produce() -> float:
    """Records each second."""
    config = {
        "bootstrap.servers": _SERVER,
        "acks": 1,
        "linger.ms": 5,
        "batch.size": 1 << 20,
        "queue.buffering.max.messages": 2 * RECORDS,
    }
    producer = Producer(config)
    producer.produce(_TOPIC, _VALUE)  # connections are made, and are not what is measured
    if producer.flush(_PATIENCE_S):
        raise WrongError("nothing can be produced")
    began = time.perf_counter()
    for number in range(RECORDS):
        producer.produce(_TOPIC, _VALUE)
        if not number % 1000:
            producer.poll(0)
    if left := producer.flush(_PATIENCE_S):
        raise WrongError(f"{left} records were not taken")
    return RECORDS / (time.perf_counter() - began)


def _check(site: KafkaSite) -> None:
    """What was measured went through the proxy, and the rule was asked."""
    sources = {one.source.ip for one in site.told(api="produce")}
    if len(sources) != 1 or site.lost:
        raise WrongError(f"requests of {sources}, {site.lost} records lost")
