"""What proxies saw: records of a small world, and any that there may be."""

from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from cplane.domain.access import Access, Address, Dns, Http, Kafka, Phase
from cplane.domain.policy.rule import PolicyRef
from cplane.domain.redaction import NO_REDACTION, Redaction
from cplane.domain.verdict import Direction, Verdict
from cplane.hubble.parser.seven import AccessParser
from cplane.hubble.store import FlowStore
from tests.support.flows import SEED, START_NS, World

L7_POLICY = PolicyRef("CiliumNetworkPolicy", "shop", "only-public")
HEADERS = (("X-Token", "42"), ("Accept", "*/*"), ("Accept", "text/plain"))
GET = Http("GET", "http://api.shop/public/1?q=1", "HTTP/1.1", headers=HEADERS)
QUERY = Dns("api.example.org.", ("A",))
PRODUCE = Kafka("produce", 9, 7, "topic1")


def access(payload: Http | Dns | Kafka = GET, **fields: Any) -> Access:
    """A request of web to api that may go out; with `answered`, what api says to it after 4 ms."""
    server = {Http: Address("10.244.0.12", 80), Dns: Address("10.244.0.13", 53), Kafka: Address("10.244.0.13", 9092)}
    ends = (Address("10.244.0.11", 43512), server[type(payload)])
    answered = fields.pop("answered", False)
    given: dict[str, Any] = {
        "time_ns": START_NS,
        "phase": Phase.RESPONSE if answered else Phase.REQUEST,
        "direction": Direction.EGRESS,
        "verdict": Verdict.FORWARDED,
        "protocol": 17 if isinstance(payload, Dns) else 6,
        "source": ends[answered],
        "destination": ends[not answered],
        "payload": payload,
        "proxy_port": 10_001,
        "rules": (L7_POLICY,),
        "latency_ns": 4_200_000 if answered else 0,
    }
    return Access(**given | fields)


def take(
    store: FlowStore,
    *records: Access,
    lost: int = 0,
    world: World | None = None,
    redaction: Redaction = NO_REDACTION,
) -> AccessParser:
    """The records are in the store, with the position 5."""
    parser = AccessParser(store, world or World(), position=lambda: 5, now_ns=lambda: START_NS + 1, redaction=redaction)
    parser.accesses(records, lost)
    return parser


_TEXTS = st.sampled_from(["", "GET", "post", "a" * 200, "http://api/x?q=ü", "/public/1", "\udc80", "x\x1b[31m\n"])
_NUMBERS = st.sampled_from([0, 1, 200, 404, 1 << 14, (1 << 31) - 1, -1, 1 << 40])


def _texts(*values: str) -> st.SearchStrategy[tuple[str, ...]]:
    return st.lists(st.sampled_from(values), max_size=3).map(tuple)


_HTTP = st.builds(
    Http,
    st.sampled_from(["GET", "POST", "delete", ""]),
    st.sampled_from(
        [
            "http://api.shop/public/1",
            "http://u:p@api/admin?q=1#x",
            "/bare",
            "//x/bare",
            "bare/only",
            "/bare#/x",
            "mailto:only",
            "/ba\tre",
            "http://[broken/x",
            "",
            "http://api/ü\udc80",
        ]
    ),
    st.sampled_from(["HTTP/1.1", "HTTP/2", ""]),
    st.sampled_from([0, 200, 204, 403, 503, 1000]),
    st.lists(
        st.tuples(
            st.sampled_from(["X-Token", "x-token", "Accept", "traceparent", ""]),
            st.one_of(_TEXTS, st.just(f"00-{'ab' * 16}-{'cd' * 8}-01"), st.just("00-0-0-0")),
        ),
        max_size=4,
    ).map(tuple),
)
_DNS = st.builds(
    Dns,
    st.sampled_from(["api.example.org.", "x.", "", "\udc80."]),
    _texts("A", "AAAA", "TYPE65"),
    st.sampled_from([0, 3, 5, 77]),
    _texts("203.0.113.7", "2001:db8::7"),
    _NUMBERS,
    _texts("other.example.org."),
    _texts("A", "CNAME"),
)
_KAFKA = st.builds(Kafka, st.sampled_from(["produce", "fetch", ""]), _NUMBERS, _NUMBERS, _TEXTS, _NUMBERS)
_ADDRESSES = (["10.244.0.11", "10.244.0.12", "192.0.2.7"], ["fd00::11", "2001:db8::7", "::"])


@st.composite
def accesses(draw: st.DrawFn) -> list[Access]:
    """Any records."""
    return [draw(_access()) for _ in range(draw(st.integers(0, 5)))]


@st.composite
def _access(draw: st.DrawFn) -> Access:
    family = draw(st.sampled_from(_ADDRESSES))
    source, destination = (
        Address(draw(st.sampled_from(family)), draw(st.sampled_from([0, 53, 80, 65_535]))) for _ in range(2)
    )
    return Access(
        time_ns=START_NS + draw(st.integers(0, 10**12)),
        phase=draw(st.sampled_from(Phase)),
        direction=draw(st.sampled_from(Direction)),
        verdict=draw(st.sampled_from([Verdict.FORWARDED, Verdict.DROPPED, Verdict.ERROR])),
        protocol=draw(st.sampled_from([6, 17, 132])),
        source=source,
        destination=destination,
        payload=draw(st.one_of(_HTTP, _DNS, _KAFKA)),
        proxy_port=draw(st.sampled_from([0, 10_001, 19_999])),
        rules=draw(st.sampled_from([(), (L7_POLICY,)])),
        latency_ns=draw(st.sampled_from([0, 1, 999_999, 1 << 20, 1 << 21, 1 << 62, -1])),
    )


def stored(*batches: Iterable[Access], capacity: int = 1024) -> FlowStore:
    """A store that has them."""
    store = FlowStore(cluster="default", node="node1", seed=SEED, capacity=capacity)
    for batch in batches:
        take(store, *batch)
    return store
