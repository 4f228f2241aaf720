"""One secret, listed and watched."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.domain.policy.http import ITEM_BYTES_MAX, ITEMS_MAX
from cplane.k8s.secrets import BadAnswer, SecretWatch


def secret(items=None, version="5", name="tls", namespace="shop"):
    data = {key: base64.b64encode(value).decode() for key, value in (items or {}).items()}
    meta = {"name": name, "namespace": namespace, "resourceVersion": version, "uid": "u", "managedFields": []}
    return {"kind": "Secret", "apiVersion": "v1", "metadata": meta, "data": data, "type": "kubernetes.io/tls"}


def listing(*items, version="10"):
    return json.dumps({"kind": "SecretList", "metadata": {"resourceVersion": version}, "items": list(items)}).encode()


def event(kind, thing):
    return json.dumps({"type": kind, "object": thing}).encode()


@pytest.fixture
def watch():
    made = SecretWatch("shop", "tls")
    made.take_list(listing(secret({"tls.crt": b"1"})))
    return made


def test_it_is_listed_alone_and_then_watched_from_there():
    watch = SecretWatch("shop", "tls")
    assert watch.target() == "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Dtls"
    watch.take_list(listing(version="10"))
    assert watch.items is None
    assert watch.target().endswith("&watch=true&allowWatchBookmarks=true&timeoutSeconds=300&resourceVersion=10")


def test_changes_are_followed(watch):
    watch.take_event(event("MODIFIED", secret({"tls.crt": b"2"}, version="11")))
    assert watch.items == {"tls.crt": b"2"}
    watch.take_event(event("BOOKMARK", {"kind": "Secret", "metadata": {"resourceVersion": "20"}}))
    assert watch.items == {"tls.crt": b"2"}
    assert watch.target().endswith("resourceVersion=20")
    watch.take_event(event("DELETED", secret(version="21")))
    assert watch.items is None
    watch.take_event(event("ADDED", secret({"a": b""}, version="22")))
    assert watch.items == {"a": b""}


def test_what_is_too_old_to_watch_is_listed_again_and_stays_what_it_was(watch):
    watch.take_event(event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"}))
    assert not watch.is_listed()
    assert watch.items == {"tls.crt": b"1"}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'{"type": "ADDED"}',
        event("MOVED", secret()),
        event("ADDED", secret(name="other")),
        event("ADDED", secret(namespace="other")),
        event("DELETED", secret(name="other")),
        event("ADDED", secret(version="")),
        event("ADDED", secret(version="a b")),
        event("ADDED", {**secret(), "data": {"a": "no base64!"}}),
        event("ADDED", {**secret(), "data": {"a": 5}}),
        event("ERROR", {"kind": "Status", "code": 500}),
        event("ERROR", []),
    ],
)
def test_what_cannot_be_understood_changes_nothing_and_is_listed_again(watch, line):
    with pytest.raises(BadAnswer):
        watch.take_event(line)
    assert watch.items == {"tls.crt": b"1"}
    assert not watch.is_listed()


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>", b"{}", b'{"kind": "Status"}', listing(version=""), listing(secret(name="x")), listing({"a": 1})],
)
def test_a_list_that_cannot_be_understood_changes_nothing(watch, body):
    watch.restart()
    with pytest.raises(BadAnswer):
        watch.take_list(body)
    assert watch.items == {"tls.crt": b"1"}
    assert not watch.is_listed()


def test_what_is_too_large_is_refused(watch):
    for items in ({"a": bytes(ITEM_BYTES_MAX + 1)}, {str(n): b"" for n in range(ITEMS_MAX + 1)}):
        watch.restart()
        with pytest.raises(BadAnswer):
            watch.take_list(listing(secret(items)))


@pytest.mark.parametrize(
    ("namespace", "name"),
    [
        ("", "tls"),
        ("shop", ""),
        ("Shop", "tls"),
        ("shop", "../x"),
        ("a/b", "tls"),
        ("shop", "a&watch=1"),
        ("a" * 64, "a"),
    ],
)
def test_names_that_kubernetes_does_not_have_are_not_asked_for(namespace, name):
    with pytest.raises(ValueError, match="name"):
        SecretWatch(namespace, name)


def test_a_message_about_content_does_not_repeat_it(watch):
    with pytest.raises(BadAnswer) as refused:
        watch.take_event(event("ADDED", {**secret(), "data": {"password": "hunter2!"}}))
    assert "hunter2" not in str(refused.value)


@given(st.binary(max_size=200))
def test_bytes_are_understood_or_refused(data):
    watch = SecretWatch("shop", "tls")
    watch.take_list(listing())
    try:
        watch.take_event(data)
    except BadAnswer:
        assert not watch.is_listed()
    try:
        watch.take_list(data)
    except BadAnswer:
        pass
