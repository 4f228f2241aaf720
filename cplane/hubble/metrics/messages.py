"""Metrics of layer 7: DNS, HTTP and Kafka, of whole flows, which are few beside those of packets."""

from typing import Final

from cplane.config.metrics import WantedMetric
from cplane.hubble.metrics.contexts import Ends
from cplane.hubble.metrics.packets import Metric
from cplane.hubble.texts import dns_rcode
from cplane.pb.flow import flow_pb2
from cplane.telemetry.metrics import Counters, Histograms

_REFUSED: Final = "Policy denied"
_NS: Final = 1e9
_REPORTERS: Final = {flow_pb2.INGRESS: "server", flow_pb2.EGRESS: "client"}
Series = tuple[Counters | Histograms, tuple[str, ...]]


class MessageMetric(Metric):
    """A metric that counts requests and responses."""

    answers_swap = False  # whether the labels of a response name its ends as those of the request

    def add(self, flow: flow_pb2.Flow, ends: Ends) -> list[Series]:
        """The flow is counted; in what series, with all labels."""
        raise NotImplementedError

    def count(self, family: Counters, flow: flow_pb2.Flow, ends: Ends, *labels: str) -> Series:
        """One more."""
        shown = (*self.contexts.values(flow.traffic_direction, ends), *labels)
        family.at(*shown).value += 1
        return family, shown

    def time(self, family: Histograms, flow: flow_pb2.Flow, ends: Ends, *labels: str) -> Series:
        """One more, which took as long as the flow says."""
        shown = (*self.contexts.values(flow.traffic_direction, ends), *labels)
        family.at(*shown).observe(flow.l7.latency_ns / _NS)
        return family, shown


class Dns(MessageMetric):
    """`dns`."""

    def __init__(self, wanted: WantedMetric, limit: int) -> None:
        super().__init__(wanted, limit)
        query = ("query",) if "query" in self.options else ()
        labels = (*query, "rcode", "qtypes", "ips_returned")
        self._queries = self.counter("dns_queries_total", "Number of DNS queries.", *labels)
        self._responses = self.counter("dns_responses_total", "Number of DNS responses.", *labels)
        self._types = self.counter(
            "dns_response_types_total", "Number of records in DNS responses.", *query, "type", "qtypes"
        )

    def add(self, flow: flow_pb2.Flow, ends: Ends) -> list[Series]:
        """Queries, those that were refused too, and responses with the types of their records."""
        if not flow.l7.HasField("dns"):
            return []
        dns = flow.l7.dns
        if "ignoreAAAA" in self.options and list(dns.qtypes) == ["AAAA"]:
            return []
        query = (dns.query,) if "query" in self.options else ()
        qtypes, ips = ",".join(dns.qtypes), str(len(dns.ips))
        if flow.verdict == flow_pb2.DROPPED:
            return [self.count(self._queries, flow, ends, *query, _REFUSED, qtypes, ips)]
        if flow.l7.type != flow_pb2.RESPONSE:
            return [self.count(self._queries, flow, ends, *query, "", qtypes, ips)]
        rcode = dns_rcode(dns.rcode)
        return [
            self.count(self._responses, flow, ends, *query, rcode, qtypes, ips),
            *(self.count(self._types, flow, ends, *query, kind, qtypes) for kind in dns.rrtypes),
        ]


class Http(MessageMetric):
    """`http`."""

    def __init__(self, wanted: WantedMetric, limit: int) -> None:
        super().__init__(wanted, limit)
        self._requests = self.counter(
            "http_requests_total", "Number of HTTP requests.", "method", "protocol", "reporter"
        )
        self._responses = self.counter(
            "http_responses_total", "Number of HTTP responses.", "method", "protocol", "status", "reporter"
        )
        self._durations = self.histogram(
            "http_request_duration_seconds", "How long HTTP requests took.", "method", "reporter"
        )

    def add(self, flow: flow_pb2.Flow, ends: Ends) -> list[Series]:
        """Requests as they come, responses with the time since their request."""
        if not flow.l7.HasField("http"):
            return []
        http, reporter = flow.l7.http, reporter_of(flow)
        if flow.l7.type == flow_pb2.REQUEST:
            return [self.count(self._requests, flow, ends, http.method, http.protocol, reporter)]
        if flow.l7.type != flow_pb2.RESPONSE:
            return []
        return [
            self.count(self._responses, flow, ends, http.method, http.protocol, str(http.code), reporter),
            self.time(self._durations, flow, ends, http.method, reporter),
        ]


class HttpV2(MessageMetric):
    """`httpV2`: requests are counted when they are answered, under the names of `http`."""

    answers_swap = True

    def __init__(self, wanted: WantedMetric, limit: int) -> None:
        super().__init__(wanted, limit)
        self._requests = self.counter(
            "http_requests_total",
            "Number of HTTP requests that were answered.",
            "method",
            "protocol",
            "status",
            "reporter",
        )
        self._durations = self.histogram(
            "http_request_duration_seconds", "How long HTTP requests took.", "method", "reporter"
        )

    def add(self, flow: flow_pb2.Flow, ends: Ends) -> list[Series]:
        """Responses."""
        if not flow.l7.HasField("http") or flow.l7.type != flow_pb2.RESPONSE:
            return []
        http, reporter = flow.l7.http, reporter_of(flow)
        return [
            self.count(self._requests, flow, ends, http.method, http.protocol, str(http.code), reporter),
            self.time(self._durations, flow, ends, http.method, reporter),
        ]


class Kafka(MessageMetric):
    """`kafka`."""

    def __init__(self, wanted: WantedMetric, limit: int) -> None:
        super().__init__(wanted, limit)
        self._requests = self.counter(
            "kafka_requests_total", "Number of Kafka requests.", "topic", "api_key", "error_code", "reporter"
        )
        self._durations = self.histogram(
            "kafka_request_duration_seconds", "How long Kafka requests took.", "topic", "api_key", "reporter"
        )

    def add(self, flow: flow_pb2.Flow, ends: Ends) -> list[Series]:
        """Requests."""
        if not flow.l7.HasField("kafka") or flow.l7.type != flow_pb2.REQUEST:
            return []
        kafka, reporter = flow.l7.kafka, reporter_of(flow)
        return [
            self.count(self._requests, flow, ends, kafka.topic, kafka.api_key, str(kafka.error_code), reporter),
            self.time(self._durations, flow, ends, kafka.topic, kafka.api_key, reporter),
        ]


MESSAGE_METRICS: Final = {"dns": Dns, "http": Http, "httpV2": HttpV2, "kafka": Kafka}


def reporter_of(flow: flow_pb2.Flow) -> str:
    """On which side the proxy was that reports: `server` for what comes in, `client` for what goes out."""
    return _REPORTERS.get(flow.traffic_direction, "unknown")


def record_name(flow: flow_pb2.Flow) -> str:
    """`DNS`, `HTTP`, `Kafka`; empty for another protocol."""
    known = {"dns": "DNS", "http": "HTTP", "kafka": "Kafka"}
    return known.get(flow.l7.WhichOneof("record") or "", "")
