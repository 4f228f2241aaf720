"""Secrets as files."""

from cplane.domain.policy.http import Secret
from cplane.xds.secrets import read_secrets


def test_items_are_files_as_kubernetes_mounts_them(tmp_path):
    place = tmp_path / "shop/token"
    (place / "..data").mkdir(parents=True)
    (place / "..data/value").write_bytes(b"s")
    (place / "value").symlink_to("..data/value")
    assert read_secrets(tmp_path, [Secret("shop", "token")]) == {Secret("shop", "token"): {"value": b"s"}}


def test_what_is_not_there_is_left_out(tmp_path):
    assert read_secrets(tmp_path, [Secret("shop", "token")]) == {}
    assert read_secrets(tmp_path / "missing", [Secret("shop", "token")]) == {}


def test_no_other_folder_is_read(tmp_path):
    (tmp_path / "secrets").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/key").write_bytes(b"s")
    asked = [Secret("..", "other"), Secret("", "other"), Secret("../other", "x"), Secret("a", "../../other")]
    assert read_secrets(tmp_path / "secrets", asked) == {}


def test_files_that_are_too_large_are_no_items(tmp_path):
    place = tmp_path / "a/b"
    place.mkdir(parents=True)
    (place / "large").write_bytes(b"x" * ((1 << 20) + 1))
    assert read_secrets(tmp_path, [Secret("a", "b")]) == {Secret("a", "b"): {}}
