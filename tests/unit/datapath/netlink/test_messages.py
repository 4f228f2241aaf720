"""Messages of rtnetlink come without the rest of their package, which stays whole for everybody else."""

import subprocess
import sys

import pytest

OURS = "from datapath.netlink import links"
THEIRS = "from pyroute2 import IPRoute"
READ = "links.ifinfmsg(bytes(32)).decode()"


def run(*statements):
    done = subprocess.run(
        [sys.executable, "-c", "; ".join(("import sys", *statements))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_rest_of_the_package_is_not_imported():
    loaded = run(OURS, READ, "print(*sys.modules)").split()
    assert "pyroute2" not in loaded
    assert not [name for name in loaded if name.startswith(("pyroute2.ndb", "pyroute2.ipdb", "pyroute2.iproute"))]


@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)])
def test_who_wants_the_package_has_all_of_it(order):
    assert run(*order, READ, "print(IPRoute.__name__)") == "IPRoute"
