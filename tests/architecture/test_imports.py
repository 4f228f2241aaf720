"""Who may import whom: the contracts of pyproject.toml hold, and processes that are waited for stay light."""

import subprocess
import sys
import tomllib

import pytest

from tests.support.tree import ROOT

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
HEAVY = ("sqlalchemy", "numpy", "betterproto2", "grpclib", "pyroute2", "google.protobuf", "anyio", "structlog", "yaml")


def imported_by(statement: str) -> set[str]:
    """Every module that a fresh interpreter has after the statement."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {statement}; print('\\n'.join(sys.modules))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.slow
def test_every_import_contract_holds():
    linter = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(linter, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(CONTRACTS)} kept, 0 broken" in done.stdout


def test_the_stack_names_every_package_that_is_there():
    for package in ("cplane", "datapath"):
        stack = next(c for c in CONTRACTS if c["type"] == "layers" and c["containers"] == [package])
        assert stack["exhaustive"]
        named = {name.strip() for layer in stack["layers"] for name in layer.split("|")}
        there = {path.name for path in (ROOT / package).iterdir() if (path / "__init__.py").exists()}
        assert there <= named


@pytest.mark.parametrize("command", ["cplane.cli.main", "cplane.hubble.cli.main"])
def test_a_command_line_imports_nothing_heavy_before_it_knows_what_to_do(command):
    loaded = imported_by(f"import {command}")
    assert [name for name in HEAVY if name in loaded] == []


def test_the_cni_plugin_imports_the_standard_library_and_its_own_few_modules():
    loaded = imported_by("import cplane.cni.main")
    foreign = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names
    # site-packages may hold a hook that the interpreter imports at every start, whoever runs
    assert foreign - {name.partition(".")[0] for name in imported_by("pass")} == {"cplane"}
    assert loaded & {"json", "re", "enum", "argparse", "logging", "typing", "socket"} <= imported_by("pass")
