"""The messages of rtnetlink, in pyroute2's form.

To import the package `pyroute2` is to import all of it, with its databases and its sockets: 160 modules, 0.2 s of an
agent's start and 8 MB. We need its codec, so what the package's own file says is left out while that is imported.
Whoever imports the package itself, before or after, has it as a whole.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Final

_PACKAGE: Final = "pyroute2"


@contextmanager
def _parts() -> Iterator[None]:
    """Modules of the package are found, and the package has nothing else in it."""
    spec = find_spec(_PACKAGE)
    if _PACKAGE in sys.modules or spec is None or spec.submodule_search_locations is None:
        yield
        return
    bare = ModuleType(_PACKAGE)
    bare.__path__, bare.__spec__ = list(spec.submodule_search_locations), spec
    sys.modules[_PACKAGE] = bare
    try:
        yield
    finally:
        del sys.modules[_PACKAGE]


with _parts():
    from pyroute2.netlink.rtnl.fibmsg import fibmsg
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.ndmsg import ndmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

__all__ = ["fibmsg", "ifaddrmsg", "ifinfmsg", "ndmsg", "rtmsg"]
