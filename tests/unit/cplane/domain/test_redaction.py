"""What is left out of requests before anybody is told of them."""

import pytest

from cplane.domain.access import Http
from cplane.domain.redaction import REDACTED, Redaction, redact
from tests.support.accesses import GET, PRODUCE, QUERY, access

HEADERS = (("Authorization", "secret"), ("Accept", "*/*"))


@pytest.mark.parametrize("payload", [GET, QUERY, PRODUCE])
def test_nothing_is_left_out_where_nothing_is_asked_for(payload: Http) -> None:
    record = access(payload)
    assert redact(record, Redaction()) is record


@pytest.mark.parametrize(
    ("redaction", "values"),
    [
        (Redaction(), ["secret", "*/*"]),
        (Redaction(headers=True), [REDACTED, REDACTED]),
        (Redaction(headers=True, allow=frozenset({"accept"})), [REDACTED, "*/*"]),
        (Redaction(headers=True, deny=frozenset({"authorization"})), [REDACTED, "*/*"]),
        (Redaction(allow=frozenset({"accept"})), ["secret", "*/*"]),
        (Redaction(headers=True, allow=frozenset({"accept"}), deny=frozenset({"accept"})), [REDACTED, "*/*"]),
    ],
)
def test_headers(redaction: Redaction, values: list[str]) -> None:
    payload = redact(access(GET._replace(headers=HEADERS)), redaction).payload
    assert isinstance(payload, Http)
    assert payload.headers == tuple(zip(("Authorization", "Accept"), values, strict=True))


@pytest.mark.parametrize(
    ("url", "query", "userinfo", "told"),
    [
        ("http://a/b?c=d#e", True, False, "http://a/b"),
        ("http://a/b#e?c", True, False, "http://a/b"),
        ("http://u:p@a/b?c=d", False, True, f"http://u:{REDACTED}@a/b?c=d"),
        ("http://u@a/b", False, True, "http://u@a/b"),
        ("http://u:p@q@a/b", False, True, f"http://u:{REDACTED}@a/b"),
        ("http://a/u:p@b", False, True, "http://a/u:p@b"),
        ("http://u:p@a?x", True, True, f"http://u:{REDACTED}@a"),
        ("//u:p@[::1", False, True, f"//u:{REDACTED}@[::1"),
        ("/bare?x", True, True, "/bare"),
        ("", True, True, ""),
        ("http://u:p@a/b?c", False, False, "http://u:p@a/b?c"),
    ],
)
def test_urls(url: str, query: bool, userinfo: bool, told: str) -> None:
    payload = redact(access(GET._replace(url=url)), Redaction(query=query, userinfo=userinfo)).payload
    assert isinstance(payload, Http)
    assert payload.url == told


def test_kafka_keys() -> None:
    record = access(PRODUCE)
    assert redact(record, Redaction(kafka_api_key=True)).payload == PRODUCE._replace(api_key=REDACTED)
    assert redact(access(QUERY), Redaction(kafka_api_key=True, query=True)).payload == QUERY
