"""cplane/pb is what scripts/gen-proto writes."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
def test_generated_code_is_what_the_generator_writes():
    done = subprocess.run(
        [sys.executable, "scripts/gen-proto", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
