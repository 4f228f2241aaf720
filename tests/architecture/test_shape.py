"""What no linter says: sizes, names, what packages tell of themselves, and nothing of one machine."""

import ast
import re
import subprocess
import tomllib

import pytest

from tests.support.tree import ROOT, SOURCES

CEILING, TEST_CEILING = 600, 900
BANNED = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}
TOP = {
    *("pyproject.toml", "cplane", "datapath", "migrations", "proto", "bpf", "tests", "scripts"),
    *("README.md", "LICENSE", "CHANGELOG.md", "requirements.lock", ".ci", ".gitignore"),
}
PACKAGES = sorted(
    path.parent
    for top in ("cplane", "datapath")
    for path in (ROOT / top).rglob("__init__.py")
    if "pb" not in path.parent.relative_to(ROOT).parts
)
TEXTS = [path for path in SOURCES if path.suffix != ".lock" and path.name != "LICENSE"]
MARKED = re.compile(r"/(home|root|work|Users)/\w|\b(pypi|pythonhosted|debian)\.org\b|\bfiles\.pythonhosted\b")
# Python before 3.11.4 does not go back after the last, failed try of a group that gives nothing back.
POSSESSIVE_GROUP = re.compile(r"""\(\?>|\)(?:[*?+]|\{[0-9,]+\})\+(?=[^\n]*["'])""")
UNFINISHED = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")


def relative(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def test_nothing_new_stands_at_the_top():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} <= TOP


def test_no_file_is_longer_than_its_ceiling():
    def ceiling(path):
        return TEST_CEILING if path.is_relative_to(ROOT / "tests") else CEILING

    written = [p for p in SOURCES if p.suffix in {".py", ".c", ".h"} and "pb" not in p.relative_to(ROOT).parts]
    assert relative(p for p in written if len(p.read_text().splitlines()) > ceiling(p)) == []


def test_no_file_or_folder_has_a_name_that_says_nothing():
    assert relative(p for p in SOURCES if BANNED & {part.partition(".")[0] for part in p.relative_to(ROOT).parts}) == []


@pytest.mark.parametrize("package", relative(PACKAGES))
def test_a_package_says_its_job_and_what_it_may_import(package):
    told = ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text())) or ""
    assert told, "no docstring"
    if "/" in package and package.count("/") == 1:  # a layer of the stack; parts of one follow its rules
        assert re.search(r"import", told), "it does not say what may be imported"


def test_every_package_is_marked_as_one():
    folders = {
        p.parent for p in SOURCES if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in {"cplane", "datapath"}
    }
    assert relative(folder for folder in folders if not (folder / "__init__.py").exists()) == []


def test_tests_are_no_package():
    assert relative((ROOT / "tests").rglob("__init__.py")) == []


def test_no_file_names_a_machine_a_home_or_a_registry():
    assert relative(p for p in TEXTS if p != ROOT / "tests/architecture/test_shape.py" and MARKED.search(read(p))) == []


def test_nothing_is_left_for_later():
    assert relative(path for path in TEXTS if UNFINISHED.search(read(path))) == []


def test_no_expression_has_a_group_that_gives_nothing_back():
    written = [p for p in SOURCES if p.suffix == ".py" and p.relative_to(ROOT).parts[0] in {"cplane", "datapath"}]
    assert relative(path for path in written if POSSESSIVE_GROUP.search(read(path))) == []


def test_scripts_can_be_run_and_say_what_they_do():
    for script in sorted(p for p in (ROOT / "scripts").iterdir() if p.is_file()):
        first, second = script.read_text().splitlines()[:2]
        assert first.startswith("#!"), script
        assert second.startswith(("# ", '"""')), script
        assert script.stat().st_mode & 0o111, script


@pytest.mark.slow
@pytest.mark.parametrize("command", ["cplane", "cplane-agent", "hubble", "hubble-relay"])
def test_a_console_script_explains_itself(command):
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"][command]
    module, _, function = entry.partition(":")
    done = subprocess.run(
        [
            ROOT / ".venv/bin/python",
            "-c",
            f"import sys; sys.argv[1:] = ['--help']; from {module} import {function}; {function}()",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def read(path):
    return path.read_bytes().decode(errors="replace")
