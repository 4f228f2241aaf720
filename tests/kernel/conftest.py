"""One compilation and one datapath for all packet tests; every test starts with the same tables."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.kernel import Node, node


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled programs, shared by all tests of a run."""
    if os.geteuid() != 0:
        pytest.skip("needs root: BPF programs are loaded")
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="session")
def shared_node(cache: Path) -> Iterator[Node]:
    with node("pkt", cache) as made:
        yield made


@pytest.fixture
def net(shared_node: Node) -> Node:
    """Pods A and B, the host and the world; nothing allowed, nothing remembered."""
    shared_node.reset()
    return shared_node
