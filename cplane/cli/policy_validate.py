"""`cplane policy validate`: everything that is wrong or odd about policies, before anything is applied."""

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import click

from cplane.cli.manifests import Offline, ignored_text, paths_option, read_paths
from cplane.cli.session import REFUSED, emit, output_option

if TYPE_CHECKING:
    from cplane.k8s.manifests import Manifests
    from cplane.k8s.objects import Finding

ERROR: Final = "error"
WARNING: Final = "warning"
NOTE: Final = "note"
_LEVELS: Final = (ERROR, WARNING, NOTE)
_COLOURS: Final = {ERROR: "red", WARNING: "yellow", NOTE: "cyan"}
_LISTED_MAX: Final = 10_000  # beyond, findings are counted


@click.command(cls=Offline)
@paths_option
@click.option("--strict", is_flag=True, help="Refuse also what is legal and surely meant otherwise: warnings.")
@click.option("--cluster", default="default", show_default=True, help="Name of the cluster.")
@output_option
def validate(*, paths: tuple[str, ...], strict: bool, cluster: str, output: str) -> None:
    """Check policies, all of them and all at once, without an agent.

    Errors are what would be refused. Warnings are what is legal and does nothing, or not what it seems to; where
    pods are given too, also selectors that match none of them. Notes say what this version does not enforce.
    Exit code 1 when there is an error, or with --strict a warning.
    """
    manifests = read_paths(paths, cluster=cluster)
    findings = sorted(_findings(manifests, cluster), key=lambda one: _LEVELS.index(one[0]))
    counts = Counter(level for level, _ in findings)
    good = not counts[ERROR] and not (strict and counts[WARNING])
    if output == "table":
        _print_text(manifests, findings, counts)
    else:
        emit(output, _plain(manifests, findings, good=good), str)
    if not good:
        raise SystemExit(REFUSED)


def _findings(manifests: "Manifests", cluster: str) -> "Iterator[tuple[str, Finding]]":
    from cplane.domain.policy.advice import advice
    from cplane.domain.policy.enforceability import notes
    from cplane.domain.policy.overlap import RuleIndex
    from cplane.errors import Rejected
    from cplane.k8s.coverage import Coverage
    from cplane.k8s.objects import Finding
    from cplane.k8s.scene import Scene

    for error in manifests.errors:
        yield ERROR, error
    for policy in manifests.foreign:
        yield WARNING, policy
    index = RuleIndex(written.policy for written in manifests.policies)
    try:
        coverage = Coverage(Scene(manifests, cluster=cluster))
    except Rejected as error:
        yield WARNING, Finding("manifests", 0, "", str(error))
        coverage = None
    for written in manifests.policies:
        said = [*advice(written.object.value, written.policy, index)]
        said += coverage.advice(written.policy) if coverage is not None else ()
        for path, message in dict.fromkeys(said):
            yield WARNING, written.object.finding(path, message)
        for note in notes(written.policy.rules):
            refused = "; an agent of this version refuses the policy" if note.refused else ""
            yield NOTE, written.object.finding(note.path, note.message + refused)


def _plain(manifests: "Manifests", findings: "list[tuple[str, Finding]]", *, good: bool) -> dict[str, object]:
    shown = []
    for level, one in findings[:_LISTED_MAX]:
        message, suggestion = one.parts()
        shown.append(
            {
                "level": level,
                "file": one.file,
                "document": one.document,
                "path": one.path,
                "message": message,
                "suggestion": suggestion,
            }
        )
    counts = Counter(level for level, _ in findings)
    return {
        "valid": good,
        "policies": len(manifests.policies),
        "objects": manifests.documents,
        **{f"{level}s": counts[level] for level in _LEVELS},
        "ignored": dict(sorted(manifests.ignored.items())),
        "findings": shown,
    }


def _print_text(manifests: "Manifests", findings: "list[tuple[str, Finding]]", counts: Counter[str]) -> None:
    from cplane.cli.format import counted, printable

    for level, one in findings[:_LISTED_MAX]:
        click.echo(f"{click.style(f'{level:<8}', fg=_COLOURS[level])} {printable(str(one))}")
    if len(findings) > _LISTED_MAX:
        click.echo(f"and {len(findings) - _LISTED_MAX} more")
    if manifests.ignored:
        click.echo(f"{click.style(f'{NOTE:<8}', fg=_COLOURS[NOTE])} {printable(ignored_text(manifests))}")
    said = ", ".join(counted(counts[level], level) for level in _LEVELS)
    click.echo(f"{counted(manifests.documents, 'object')}, {counted(len(manifests.policies), 'sound policy')}: {said}")
