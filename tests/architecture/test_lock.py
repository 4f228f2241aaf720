"""requirements.lock belongs to pyproject.toml, and to what is installed."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, version

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.tree import ROOT

LOCK = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DIRECT = [Requirement(text) for text in PROJECT["project"]["dependencies"] + PROJECT["dependency-groups"]["dev"]]
BLOCK = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>\S+) ?(?:; .*)?\\?\n(?P<rest>(?:    .*\n)*)", re.MULTILINE)
PINS = {canonicalize_name(one["name"]): (one["version"], one["rest"]) for one in BLOCK.finditer(LOCK)}


def test_every_pin_was_read():
    assert len(PINS) == len(re.findall(r"^[^\s#]", LOCK, re.MULTILINE))


def test_what_is_required_is_locked_at_a_version_that_will_do():
    for one in DIRECT:
        pinned = PINS.get(canonicalize_name(one.name))
        assert pinned is not None, f"{one.name} is not in requirements.lock"
        assert pinned[0] in one.specifier, f"{one} is locked at {pinned[0]}"


def test_nothing_is_locked_for_a_requirement_that_is_gone():
    direct = {name for name, (_, rest) in PINS.items() if re.search(r"# .*\bcplane \(pyproject.toml|cplane:dev", rest)}
    assert direct == {canonicalize_name(one.name) for one in DIRECT}


def test_every_pin_has_hashes_and_no_place_to_fetch_it_from():
    assert [name for name, (_, rest) in PINS.items() if "--hash=sha256:" not in rest] == []
    assert "://" not in LOCK


def test_what_is_installed_is_what_is_locked():
    different = []
    for name, (wanted, _) in PINS.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            continue  # for another platform
        if found != wanted:
            different.append(f"{name} is {found}, locked {wanted}")
    assert different == []
