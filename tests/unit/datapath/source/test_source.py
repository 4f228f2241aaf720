"""Defines and digests: the same input has one name, another input another."""

import pytest

from datapath.source.defines import DEFAULTS, defines
from datapath.source.digest import digest

BASE = digest({"a.c": b"int x;", "lib/b.h": b""}, ("-DX=1",), "bcc 1")


@pytest.mark.parametrize(
    "other",
    [
        ({"a.c": b"int y;", "lib/b.h": b""}, ("-DX=1",), "bcc 1"),
        ({"a.c": b"int x;", "lib/c.h": b""}, ("-DX=1",), "bcc 1"),
        ({"a.c": b"int x;"}, ("-DX=1",), "bcc 1"),
        ({"a.c": b"int x;lib/b.h", "": b""}, ("-DX=1",), "bcc 1"),
        ({"a.c": b"int x;", "lib/b.h": b""}, ("-DX=2",), "bcc 1"),
        ({"a.c": b"int x;", "lib/b.h": b""}, ("-DX=", "1"), "bcc 1"),
        ({"a.c": b"int x;", "lib/b.h": b""}, ("-DX=1",), "bcc 2"),
    ],
)
def test_any_change_changes_the_digest(other: tuple[dict[str, bytes], tuple[str, ...], str]) -> None:
    assert digest(*other) != BASE


def test_the_order_of_sources_does_not_matter() -> None:
    assert digest({"lib/b.h": b"", "a.c": b"int x;"}, ("-DX=1",), "bcc 1") == BASE
    assert len(BASE) == 32


def test_defines_depend_on_the_values_not_on_their_order() -> None:
    assert defines({"ct_any_s": 5, "ct_tcp_s": 9}) == defines({"ct_tcp_s": 9, "ct_any_s": 5})
    assert defines({"ct_any_s": 5}) == ("-DCONFIG_ct_any_s=5",)
    assert len(defines(DEFAULTS)) == len(DEFAULTS)


def test_an_unknown_setting_is_refused_with_the_known_ones() -> None:
    with pytest.raises(KeyError, match="report_interval_s"):
        defines({"report_intervall_s": 5})
