"""How Envoy is run."""

from pathlib import Path

import pytest

from cplane.proxy.envoy import EnvoyOptions, program


def bootstrap_of(folder: Path) -> Path:
    (found,) = folder.glob("envoy-*.json")
    return found


@pytest.mark.parametrize("left", ["", "{"])
def test_a_bootstrap_that_was_written_in_part_is_written_again(tmp_path: Path, left: str) -> None:
    options = EnvoyOptions(tmp_path, tmp_path / "xds.sock", "node")
    first = program(options)
    written = bootstrap_of(tmp_path).read_text()
    bootstrap_of(tmp_path).write_text(left)
    assert program(options) == first
    assert bootstrap_of(tmp_path).read_text() == written
