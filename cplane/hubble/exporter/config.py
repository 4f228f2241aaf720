"""What is exported where: from the agent's configuration, and from upstream's file of flow logs (`flowLogs`)."""

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from google.protobuf import json_format

from cplane.config.model import HubbleConfig
from cplane.config.problems import BadText, Bounds
from cplane.config.text import read
from cplane.errors import Rejected
from cplane.hubble.fieldmask import PATHS_MAX, unknown_path
from cplane.pb.flow import flow_pb2

STATIC: Final = "static"  # name of the export that the agent's configuration has
EXPORTS_MAX: Final = 64  # each costs its own pass over the flows
_MB: Final = 1_000_000
_SIZE_MAX_MB: Final = 1_000_000
_BACKUPS_MAX: Final = 10_000
_BOUNDS: Final = Bounds(bytes=1_000_000, values=50_000, depth=16, documents=1)
_KINDS: Final[Mapping[str, tuple[type, str]]] = {
    "name": (str, "text"),
    "filePath": (str, "text"),
    "fieldMask": (list, "a list of texts"),
    "includeFilters": (list, "a list of filters"),
    "excludeFilters": (list, "a list of filters"),
    "end": (str, "a time such as 2024-12-31T23:59:59Z"),
    "fileMaxSizeMb": (int, "a whole number"),
    "fileMaxBackups": (int, "a whole number"),
    "fileCompress": (bool, "true or false"),
}


class BadExport(Rejected):
    """What is to be exported cannot be."""

    code = "hubble.bad_export"

    def __init__(self, where: str, reason: str) -> None:
        self.where, self.reason = where, reason

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """One file and what goes there. Filters are serialised; `end_ns` is UTC, None: never."""

    name: str
    path: str
    fields: tuple[str, ...] = ()
    include: tuple[bytes, ...] = ()
    exclude: tuple[bytes, ...] = ()
    end_ns: int | None = None
    max_bytes: int = 10 * _MB
    backups: int = 5
    compress: bool = False

    @property
    def filters(self) -> tuple[list[flow_pb2.FlowFilter], list[flow_pb2.FlowFilter]]:
        """Flows must be selected by one of the first, if there are any, and by none of the second."""
        parse = flow_pb2.FlowFilter.FromString
        return [parse(one) for one in self.include], [parse(one) for one in self.exclude]


def static_export(config: HubbleConfig) -> Export | None:
    """The export of the agent's configuration, if it has one. Raises BadExport."""
    if not config.export_file_path:
        return None
    return Export(
        name=STATIC,
        path=config.export_file_path,
        fields=_fields("hubble.export_fieldmask", config.export_fieldmask),
        include=tuple(_filters_of_text("hubble.export_allowlist", config.export_allowlist)),
        exclude=tuple(_filters_of_text("hubble.export_denylist", config.export_denylist)),
        max_bytes=config.export_file_max_size_mb * _MB,
        backups=config.export_file_max_backups,
        compress=config.export_file_compress,
    )


def parse_flow_logs(data: bytes) -> tuple[Export, ...]:
    """The exports of a file of flow logs. Raises BadExport with where and what is wrong."""
    try:
        documents = read(data, _BOUNDS)
    except BadText as bad:
        raise BadExport("the file", str(bad)) from bad
    tree = documents[0].value if documents else {}
    if not isinstance(tree, dict) or not isinstance(tree.get("flowLogs", []), list) or set(tree) - {"flowLogs"}:
        raise BadExport("the file", "it is not a mapping with the one key flowLogs, a list")
    logs = tree.get("flowLogs", [])
    if len(logs) > EXPORTS_MAX:
        raise BadExport("flowLogs", f"{len(logs)} are more than {EXPORTS_MAX}")
    found: dict[str, Export] = {}
    for number, one in enumerate(logs):
        export = _export(f"flowLogs[{number}]", one)
        if export.name in found or export.name == STATIC:
            raise BadExport(f"flowLogs[{number}].name", f"{export.name!r} is taken")
        if any(export.path == other.path for other in found.values()):
            raise BadExport(f"flowLogs[{number}].filePath", f"another one writes to {export.path}")
        found[export.name] = export
    return tuple(found.values())


def _export(where: str, tree: object) -> Export:
    if not isinstance(tree, dict):
        raise BadExport(where, "it is not a mapping")
    for key, value in tree.items():
        if key not in _KINDS:
            raise BadExport(f"{where}.{key}", f"unknown key; known are {', '.join(_KINDS)}")
        kind, told = _KINDS[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise BadExport(f"{where}.{key}", f"{told} is wanted, not {value!r}")
    given: Callable[..., Any] = tree.get  # Any: checked above
    name, path = given("name", ""), given("filePath", "")
    if not name:
        raise BadExport(f"{where}.name", "it is missing")
    if not path.startswith("/"):
        raise BadExport(f"{where}.filePath", f"{path!r} is not an absolute path")
    size, backups = given("fileMaxSizeMb", 10), given("fileMaxBackups", 5)
    for key, value, most in (("fileMaxSizeMb", size, _SIZE_MAX_MB), ("fileMaxBackups", backups, _BACKUPS_MAX)):
        if not 0 <= value <= most:
            raise BadExport(f"{where}.{key}", f"{value} is not from 0 to {most}")
    fields = given("fieldMask", [])
    if not all(isinstance(field, str) for field in fields) or len(fields) > PATHS_MAX:
        raise BadExport(f"{where}.fieldMask", f"a list of up to {PATHS_MAX} texts is wanted")
    return Export(
        name=name,
        path=path,
        fields=_fields(f"{where}.fieldMask", fields),
        include=tuple(_filters(f"{where}.includeFilters", given("includeFilters", []))),
        exclude=tuple(_filters(f"{where}.excludeFilters", given("excludeFilters", []))),
        end_ns=_instant(f"{where}.end", given("end", "")),
        max_bytes=size * _MB,
        backups=backups,
        compress=given("fileCompress", False),
    )


def _fields(where: str, paths: Collection[str]) -> tuple[str, ...]:
    """The paths; one that no flow has would leave an export without what was meant, and nobody would be told."""
    if (unknown := unknown_path(paths)) is not None:
        raise BadExport(where, f"{unknown!r} is no field of a flow; write for example source.pod_name")
    return tuple(paths)


def _filters(where: str, trees: list[object]) -> Iterator[bytes]:
    for number, tree in enumerate(trees):
        if not isinstance(tree, dict):
            raise BadExport(f"{where}[{number}]", "a filter is a mapping")
        yield _filter(f"{where}[{number}]", tree)


def _filters_of_text(where: str, text: str) -> Iterator[bytes]:
    """Filters one after the other, each a mapping in JSON."""
    decoder, at = json.JSONDecoder(), 0
    while text[at:].strip():
        start = len(text) - len(text[at:].lstrip())
        try:
            tree, at = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            raise BadExport(where, f"{text[start : start + 80]!r} is not a filter in JSON: {error}") from None
        if not isinstance(tree, dict):
            raise BadExport(where, f"{tree!r} is not a filter, which is a mapping")
        yield _filter(where, tree)


def _filter(where: str, tree: dict[str, object]) -> bytes:
    try:
        return json_format.ParseDict(tree, flow_pb2.FlowFilter()).SerializeToString(deterministic=True)
    except (json_format.ParseError, RecursionError) as error:
        raise BadExport(where, f"it is not a filter: {error}") from None


def _instant(where: str, text: str) -> int | None:
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise BadExport(where, f"{text!r} is not a time such as 2024-12-31T23:59:59Z")
    return int(at.timestamp()) * 1_000_000_000
