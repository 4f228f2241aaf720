"""Three clients of Kafka that people use: each produces a value and consumes in a group, and says how it was refused.

They run in processes of their own, as they leave sockets and warnings behind when they are refused.
"""

import asyncio
import json
import subprocess
import sys
import time
import warnings
from typing import Protocol

import aiokafka
import confluent_kafka

with warnings.catch_warnings(action="ignore"):  # it reads its messages in a way that Python will not have for long
    import kafka

from tests.support.netns import Namespace
from tests.support.tree import ROOT


class Client(Protocol):
    """What was refused is told by the name of the error; "nothing" is refused by silence."""

    def produce(self, topic: str, value: bytes, server: str) -> str:
        """Empty: it was taken."""
        ...

    def consume(self, topic: str, group: str, count: int, server: str) -> list[bytes] | str:
        """What is new to the group, as soon as there is so much of it."""
        ...


class Confluent:
    def produce(self, topic, value, server):
        said = []
        producer = confluent_kafka.Producer({"bootstrap.servers": server, "message.timeout.ms": 8000})
        producer.produce(topic, value, callback=lambda error, _: said.append(error))
        producer.flush(15)
        (error,) = said
        return "" if error is None else error.name()

    def consume(self, topic, group, count, server):
        config = {"bootstrap.servers": server, "group.id": group, "auto.offset.reset": "earliest"}
        consumer = confluent_kafka.Consumer(config)
        try:
            consumer.subscribe([topic])
            found, until = [], time.monotonic() + 20
            while len(found) < count and time.monotonic() < until:
                got = consumer.poll(0.2)
                if got is not None and got.error():
                    return got.error().name()
                if got is not None:
                    found.append(got.value())
            consumer.commit(asynchronous=False)
            return found
        finally:
            consumer.close()


class KafkaPython:
    def produce(self, topic, value, server):
        producer = kafka.KafkaProducer(bootstrap_servers=server, max_block_ms=8000, request_timeout_ms=8000)
        try:
            producer.send(topic, value).get(10)
            return ""
        except kafka.errors.KafkaError as error:
            return type(error).__name__
        finally:
            producer.close(1)

    def consume(self, topic, group, count, server):
        consumer = kafka.KafkaConsumer(bootstrap_servers=server, group_id=group, auto_offset_reset="earliest")
        try:
            consumer.subscribe([topic])
            found, until = [], time.monotonic() + 20
            while len(found) < count and time.monotonic() < until:
                found += [one.value for got in consumer.poll(200).values() for one in got]
                if topic == "secret" and time.monotonic() > until - 18:
                    return "nothing"
            consumer.commit()
            return found
        except kafka.errors.KafkaError as error:
            return type(error).__name__
        finally:
            consumer.close()


class Aiokafka:
    def produce(self, topic, value, server):
        async def work():
            producer = aiokafka.AIOKafkaProducer(
                bootstrap_servers=server, request_timeout_ms=8000, enable_idempotence=True
            )
            try:
                await producer.start()
                await producer.send_and_wait(topic, value)
                return ""
            except aiokafka.errors.KafkaError as error:
                return type(error).__name__
            finally:
                await producer.stop()

        return asyncio.run(work())

    def consume(self, topic, group, count, server):
        async def work():
            consumer = aiokafka.AIOKafkaConsumer(
                topic, bootstrap_servers=server, group_id=group, auto_offset_reset="earliest"
            )
            try:
                await consumer.start()
                found, until = [], time.monotonic() + 20
                while len(found) < count and time.monotonic() < until:
                    found += [one.value for got in (await consumer.getmany(timeout_ms=200)).values() for one in got]
                await consumer.commit()
                return found
            except aiokafka.errors.KafkaError as error:
                return type(error).__name__
            finally:
                await consumer.stop()

        return asyncio.run(work())


CLIENTS = {"confluent": Confluent(), "kafka-python": KafkaPython(), "aiokafka": Aiokafka()}


def produce(netns: Namespace, client: str, topic: str, value: str, server: str) -> str:
    """What the client says of it, in the namespace."""
    return str(_asked(netns, [client, "produce", topic, value, server]))


def consume(netns: Namespace, client: str, topic: str, group: str, server: str) -> list[str] | str:
    """What the client gets in the namespace, or the name of the error."""
    found = _asked(netns, [client, "consume", topic, group, server])
    return [str(one) for one in found] if isinstance(found, list) else str(found)


def _asked(netns: Namespace, arguments: list[str]) -> object:
    command = ["ip", "netns", "exec", netns.name, sys.executable, "-W", "ignore", "-m", "tests.support.kafka_clients"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _main() -> None:
    name, verb, topic, what, server = sys.argv[1:]
    client = CLIENTS[name]
    if verb == "produce":
        print(json.dumps(client.produce(topic, what.encode(), server)))
    else:
        found = client.consume(topic, what, 1, server)
        print(json.dumps(found if isinstance(found, str) else [one.decode() for one in found]))


if __name__ == "__main__":
    _main()
