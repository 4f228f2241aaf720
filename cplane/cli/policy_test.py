"""`cplane policy test`: expectations of policies, kept beside them and checked like unit tests."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

import click

from cplane.cli.manifests import WRONG_USAGE, Offline, paths_option, reach_of, scene_of, scene_options, sources
from cplane.cli.session import REFUSED, complain

if TYPE_CHECKING:
    from cplane.k8s.expectations import Expectation, Result

_EPILOG = """\b
A test file is a list:
  - name: only the web may call the api
    from: shop/db            # namespace/pod, node/NAME or an address
    to: shop/api             # also svc:namespace/name
    port: 8080/TCP           # or http/TCP, 8/ICMP
    expect: deny             # or allow, audit
    because: api             # optional: the policy that decides; also shop/api, or with its kind as answers have it
    http: {method: GET, path: /pub}   # optional: what is asked; or kafka, dns
"""


@click.command("test", cls=Offline, epilog=_EPILOG)
@paths_option
@click.option("--tests", multiple=True, required=True, metavar="FILE...", help="Expectations: files or folders.")
@click.option("--junit", type=click.Path(dir_okay=False), metavar="FILE", help="Also write the results as JUnit XML.")
@click.option("-v", "--verbose", is_flag=True, help="Show also the tests that pass.")
@scene_options
def check(
    *,
    paths: tuple[str, ...],
    tests: tuple[str, ...],
    junit: str | None,
    verbose: bool,
    cluster: str,
    enforcement: str,
    audited: tuple[str, ...],
) -> None:
    """Check what is expected of policies, offline. Each failure is explained.

    Exit code 1 when a test fails or a manifest is wrong, 2 when a test file cannot be read.
    """
    from cplane.k8s.expectations import check as checked

    expectations = _read(tests)
    scene = scene_of(paths, cluster=cluster, enforcement=enforcement, others=tests)
    reach = reach_of(scene, audited)
    results = list(checked(expectations, reach))
    for one in results:
        if one.problem or verbose:
            click.echo(_text(one))
    failed = sum(1 for one in results if one.problem)
    click.echo(f"{len(results) - failed} passed, {failed} failed")
    if junit is not None:
        _write(junit, _junit(results))
    if failed:
        raise SystemExit(REFUSED)


def _read(paths: Iterable[str]) -> "list[Expectation]":
    """All expectations of the files; ends the process where there is none, or one that is wrong."""
    from cplane.k8s.expectations import read_expectations

    found: list[Expectation] = []
    wrong = False
    for source in sources(paths):
        good, findings = read_expectations(source)
        found.extend(good)
        for finding in findings:
            complain(str(finding))
            wrong = True
    if wrong:
        raise SystemExit(WRONG_USAGE)
    return found


def _text(one: "Result") -> str:
    from cplane.cli.format import printable

    mark = click.style("FAIL", fg="red", bold=True) if one.problem else click.style("ok  ", fg="green")
    where = f"{one.expectation.where.file}, {one.expectation.where.path}"
    lines = [f"{mark}  {printable(one.expectation.name)} ({printable(where)})"]
    if one.problem:
        lines += [f"      {printable(line)}" for line in _explained(one)]
    return "\n".join(lines)


def _explained(one: "Result") -> list[str]:
    sides = (("egress", one.answer.egress), ("ingress", one.answer.ingress)) if one.answer is not None else ()
    return [one.problem, *(f"{name}: {side.verdict}, {side.reason}" for name, side in sides)]


def _junit(results: "list[Result]") -> str:
    """The results in the form that servers of continuous integration read: a suite for each file."""
    by_file: dict[str, list[Result]] = {}
    for one in results:
        by_file.setdefault(one.expectation.where.file, []).append(one)
    suites = [line for file, held in by_file.items() for line in _suite(file, held)]
    return "\n".join(('<?xml version="1.0" encoding="UTF-8"?>', "<testsuites>", *suites, "</testsuites>", ""))


def _suite(file: str, results: "list[Result]") -> list[str]:
    failures = sum(1 for one in results if one.problem and one.answer is not None)
    errors = sum(1 for one in results if one.problem and one.answer is None)
    counts = f'tests="{len(results)}" failures="{failures}" errors="{errors}" skipped="0" time="0"'
    lines = [f"  <testsuite name={_attribute(file)} {counts}>"]
    for one in results:
        head = f'    <testcase classname={_attribute(file)} name={_attribute(one.expectation.name)} time="0"'
        if not one.problem:
            lines.append(f"{head}/>")
            continue
        tag = "failure" if one.answer is not None else "error"
        told = escape("\n".join(_clean(line) for line in _explained(one)))
        lines += [f"{head}>", f"      <{tag} message={_attribute(one.problem)}>{told}</{tag}>", "    </testcase>"]
    return [*lines, "  </testsuite>"]


def _attribute(text: str) -> str:
    return quoteattr(_clean(text))


def _clean(text: str) -> str:
    """Without characters that XML cannot hold."""
    from cplane.cli.format import printable

    return printable(text)


def _write(file: str, text: str) -> None:
    try:
        Path(file).write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"--junit {file}: {error.strerror or error}") from None
