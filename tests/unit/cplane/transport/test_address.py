"""How addresses are written."""

import pytest

from cplane.transport.address import BadAddress, TcpAddress, UnixAddress, parse_address, split_host_port


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("unix:///run/cplane/admin.sock", UnixAddress("/run/cplane/admin.sock")),
        ("unix:relative.sock", UnixAddress("relative.sock")),
        ("/run/x.sock", UnixAddress("/run/x.sock")),
        ("localhost:4244", TcpAddress("localhost", 4244)),
        ("tcp://10.0.0.1:1", TcpAddress("10.0.0.1", 1)),
        ("[::1]:4244", TcpAddress("::1", 4244)),
    ],
)
def test_an_address_is_read_in_every_form(text: str, parsed: object):
    assert parse_address(text) == parsed


def test_tls_in_an_address_brings_the_systems_authorities():
    parsed = parse_address("tls://relay.example:443")
    assert isinstance(parsed, TcpAddress)
    assert (parsed.host, parsed.port) == ("relay.example", 443)
    assert parsed.tls is not None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "write host:port"),
        ("localhost", "write host:port"),
        ("::1:4244", "IPv6 host in brackets"),
        ("host:http", "not a port"),
        ("host:65536", "not a port"),
        ("host:-1", "not a port"),
        (":4244", "host is missing"),
        ("unix://", "1 to 107 bytes"),
        ("/" + "x" * 107, "1 to 107 bytes"),
    ],
)
def test_a_wrong_address_says_what_to_write(text: str, reason: str):
    with pytest.raises(BadAddress) as told:
        parse_address(text)
    assert reason in str(told.value)


def test_a_listening_address_needs_no_host():
    assert split_host_port(":4244") == ("", 4244)


def test_addresses_print_as_they_are_read():
    for text in ("unix:///a", "127.0.0.1:1", "[::1]:1"):
        assert str(parse_address(text)) == text
