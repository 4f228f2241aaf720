"""The files of this repository, as tests look at them."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_NOT_OURS = {".git", ".venv", "__pycache__", "dist", "build", "node_modules"}


def _sources() -> tuple[Path, ...]:
    """What git has or would take; without git, everything but well-known by-products."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        paths = (ROOT / name for name in listed.stdout.split("\0") if name)
    else:
        paths = (path for path in ROOT.rglob("*") if not _NOT_OURS & set(path.relative_to(ROOT).parts))
    return tuple(sorted(path for path in paths if path.is_file()))


SOURCES = _sources()
