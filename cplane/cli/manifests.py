"""What offline commands share: files and folders of manifests, read and found right or wrong."""

import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import click

from cplane.cli.session import REFUSED, complain, fail

if TYPE_CHECKING:
    from cplane.k8s.manifests import Manifests
    from cplane.k8s.objects import Source
    from cplane.k8s.reach import Reach
    from cplane.k8s.scene import Scene

Callback = TypeVar("Callback", bound=Callable[..., object])

STDIN: Final = "-"
WRONG_USAGE: Final = 2
FILES_MAX: Final = 10_000
_BYTES_MAX: Final = 10_000_001
_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
_SHOWN_MAX: Final = 1000  # errors; beyond, their number


class Offline(click.Command):
    """A command whose options take several values after one name, as a shell's patterns give them: `-f a b c`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Repeat the name of an option that may be repeated before each of its values."""
        many = {
            name: one.opts[0]
            for one in self.params
            if isinstance(one, click.Option) and one.multiple
            for name in one.opts
        }
        return super().parse_args(ctx, list(_repeated(args, many)))


def _repeated(args: Iterable[str], many: dict[str, str]) -> Iterator[str]:
    """The arguments, where an option of `many` stands before each of its values."""
    current, values = "", 0
    for one in args:
        if one.startswith("-") and one != STDIN:
            name, given, _ = one.partition("=")
            current, values = many.get(name, ""), int(bool(given))
        elif current:
            values += 1
            if values > 1:
                yield current
        yield one


def paths_option(callback: Callback) -> Callback:
    """The command takes `-f PATH…` as `paths`."""
    return click.option(
        *("-f", "--file", "paths"),
        multiple=True,
        required=True,
        metavar="PATH...",
        help="Manifests: files, folders (all .yaml, .yml and .json below them), or - for standard input.",
    )(callback)


def scene_options(callback: Callback) -> Callback:
    """The command takes what is not in manifests: `cluster`, `enforcement` and `audited`."""
    cluster = click.option("--cluster", default="default", show_default=True, help="Name of the cluster.")
    enforcement = click.option(
        "--enforcement",
        type=click.Choice(["default", "always", "never"]),
        default="default",
        show_default=True,
        help="Which endpoints have default deny: those that a policy is about, all, or none.",
    )
    audited = click.option(
        "--audit", "audited", multiple=True, metavar="NAMESPACE/POD", help="Endpoints in audit mode; all: every one."
    )
    return cluster(enforcement(audited(callback)))


def read_paths(paths: Iterable[str], *, cluster: str, others: Iterable[str] = ()) -> "Manifests":
    """Everything in the files; ends the process where one cannot be read. `others` are files of another kind."""
    from cplane.k8s.manifests import read_manifests
    from cplane.k8s.objects import read_objects

    objects, wrong = read_objects(sources(paths, others))
    found = read_manifests(objects, cluster=cluster)
    found.errors[:0] = wrong
    return found


def sound(manifests: "Manifests") -> "Manifests":
    """The manifests, where nothing is wrong with them; otherwise every error is printed and the process ends.

    What the ignored ones were is said, so that a slip in a kind does not go unnoticed.
    """
    for one in manifests.errors[:_SHOWN_MAX]:
        complain(str(one))
    if len(manifests.errors) > _SHOWN_MAX:
        complain(f"and {len(manifests.errors) - _SHOWN_MAX} more errors")
    if manifests.errors:
        raise SystemExit(REFUSED)
    ignored = ignored_text(manifests)
    if ignored:
        complain(ignored)
    return manifests


def ignored_text(manifests: "Manifests") -> str:
    """Which kinds of objects were left out; empty where none was."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(manifests.ignored.items()))
    return f"ignored objects that mean nothing to policies: {kinds}" if kinds else ""


def scene_of(paths: Iterable[str], *, cluster: str, enforcement: str, others: Iterable[str] = ()) -> "Scene":
    """The scene that the files describe; ends the process where they are wrong."""
    from cplane.domain.policy.repository import Enforcement
    from cplane.errors import Rejected
    from cplane.k8s.scene import Scene

    manifests = sound(read_paths(paths, cluster=cluster, others=others))
    try:
        return Scene(manifests, cluster=cluster, enforcement=Enforcement(enforcement))
    except Rejected as error:
        fail(str(error))


def reach_of(scene: "Scene", audited: tuple[str, ...]) -> "Reach":
    """Who answers questions about the scene. Ends the process where an audited endpoint is not in it."""
    from cplane.k8s.reach import ALL, Reach

    for name in audited:
        if name != ALL and name not in scene.pods and name not in {end.name for end in scene.nodes.values()}:
            raise click.UsageError(f"--audit: there is no pod {name!r}: write namespace/pod, node/NAME or {ALL}")
    return Reach(scene, audited)


def sources(paths: Iterable[str], others: Iterable[str] = (), *, bytes_max: int = _BYTES_MAX) -> "Iterator[Source]":
    """The texts of all files but the `others`, each once; ends the process where one cannot be read.

    `bytes_max` is one more than a text may have: then it is refused by its size.
    """
    from cplane.k8s.objects import Source

    seen = {Path(other).resolve() for other in others if other != STDIN}
    for path in paths:
        for file in _files(path):
            place = Path(file).resolve()
            if place in seen:
                continue
            seen.add(place)
            if len(seen) > FILES_MAX:
                raise click.UsageError(f"more than {FILES_MAX} files: name fewer folders")
            yield Source("<stdin>" if file == STDIN else file, _read(file, bytes_max))


def _files(path: str) -> Iterator[str]:
    """The file, or those of the folder in order; what is hidden in it is left out."""
    place = Path(path)
    if path == STDIN or not place.is_dir():
        yield path
        return
    found = (one for one in place.rglob("*") if one.suffix in _SUFFIXES and one.is_file())
    files = sorted(one for one in found if not any(part.startswith(".") for part in one.relative_to(place).parts))
    if not files:
        raise click.UsageError(f"{path}: the folder has no {', '.join(sorted(_SUFFIXES))} file")
    yield from map(str, files)


def _read(file: str, bytes_max: int) -> bytes:
    if file == STDIN:
        return sys.stdin.buffer.read(bytes_max)
    try:
        with Path(file).open("rb") as opened:
            return opened.read(bytes_max)
    except OSError as error:
        raise click.UsageError(f"{file}: {error.strerror or error}") from None
