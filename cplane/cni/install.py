"""The plugin where runtimes look for it, so that it starts in half the time."""

import os
import sys
from contextlib import suppress
from pathlib import Path

import cplane

FOLDER = "/opt/cni/bin"
_NAME = "cplane-cni"
_SHEBANG_BYTES_MAX = 255  # BINPRM_BUF_SIZE of linux/binfmts.h without its end


def install(folder: str) -> int:
    """`cplane-cni` is in the folder, and belongs to this installation; the exit status.

    It is a file of its own and no link: its interpreter looks neither for packages (-S) nor at its user's environment
    (-I), which takes 8 ms of 30. Whoever calls the plugin meanwhile has the old or the new one.
    """
    first = f"#!{sys.executable} -IS"
    if len(first) > _SHEBANG_BYTES_MAX or len(first.split()) != 2:
        return _refused(f"{sys.executable} cannot stand in a script's first line: its path is too long or has spaces")
    root = str(Path(cplane.__file__).parent.parent)
    text = f"{first}\nimport sys\n\nsys.path.insert(0, {root!r})\n"
    text += "from cplane.cni.main import command\n\ncommand()\n"
    target = Path(folder) / _NAME
    made = target.with_name(f".{_NAME}.{os.getpid()}")
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        made.write_text(text)
        made.chmod(0o755)
        made.replace(target)
    except OSError as error:
        with suppress(OSError):
            made.unlink()
        return _refused(f"cannot write {target}: {error.strerror or error}")
    sys.stdout.write(f"{target}\n")
    sys.stdout.flush()
    return 0


def _refused(reason: str) -> int:
    sys.stderr.write(f"cplane-cni: {reason}; a link to this file does as well: ln -s $(command -v {_NAME}) {FOLDER}\n")
    return 1
