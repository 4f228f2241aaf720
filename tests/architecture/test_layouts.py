"""C owns the layouts; a compiler says whether their Python twins are right."""

import shutil
import subprocess
from pathlib import Path

import pytest

from datapath.kernel.compile import source_root
from datapath.maps import catalog
from datapath.notify.records import RECORD, SOCKET_RECORD

pytestmark = pytest.mark.clang

INCLUDES = '#include "lib/ctx.h"\n#include "lib/types.h"\n'


def clang() -> str:
    """The newest of the names that distributions give it."""
    for name in ("clang-16", "clang", "clang-19", "clang-18", "clang-17", "clang-15", "clang-14"):
        path = shutil.which(name)
        if path:
            return path
    pytest.skip("needs clang with the bpf target")


def compiled(text: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    source = tmp_path / "proof.c"
    source.write_text(text)
    arguments = ["-target", "bpf", "-fsyntax-only", "-Wall", "-Werror", "-I", str(source_root()), str(source)]
    return subprocess.run([clang(), *arguments], capture_output=True, text=True, check=False)


def test_every_layout_is_the_compilers(tmp_path: Path) -> None:
    done = compiled(INCLUDES + catalog.proofs(RECORD, SOCKET_RECORD), tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sizeof(struct record) == 128", "sizeof(struct record) == 127"),
        ("policy_key, dport) == 14", "policy_key, dport) == 12"),
    ],
)
def test_a_wrong_layout_does_not_compile(tmp_path: Path, right: str, wrong: str) -> None:
    text = catalog.proofs(RECORD, SOCKET_RECORD)
    assert right in text
    assert compiled(INCLUDES + text.replace(right, wrong), tmp_path).returncode != 0
