"""Old versions of events read as the newest one, by a catalogue of the test's own: none of ours has had two."""

import io
from pathlib import Path
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cplane.eventlog import codec, snapshots
from cplane.eventlog.archiving import archive_file
from cplane.eventlog.chain import Chain
from cplane.eventlog.codec import Draft, draft
from cplane.eventlog.importing import import_log
from cplane.eventlog.reader import MemoryReader, open_history
from cplane.eventlog.store import SqliteLog
from cplane.eventlog.verify import verify_file
from cplane.events.catalog import CATALOG, RETIRED
from cplane.events.envelope import NODE, Proposed
from cplane.events.node import NodeAddressesChanged
from cplane.events.upcasting import Retired, readers
from cplane.projections.tables import UPSERT_ORDER
from cplane.timetravel import history as module
from cplane.timetravel.exported import export
from cplane.timetravel.history import History
from cplane.timetravel.wanted import Wanted
from tests.support import churn
from tests.support.clock import TickingClock

# A catalogue: a wall has a colour, then colours, then a number of coats too.


class Painted1(msgspec.Struct, frozen=True, kw_only=True):
    wall: str
    colour: str


class Painted2(msgspec.Struct, frozen=True, kw_only=True):
    wall: str
    colours: tuple[str, ...]


class Painted3(msgspec.Struct, frozen=True, kw_only=True):
    wall: str
    colours: tuple[str, ...]
    coats: int


class Washed(msgspec.Struct, frozen=True, kw_only=True):
    wall: str


def with_colours(old: Painted1) -> Painted2:
    return Painted2(wall=old.wall, colours=(old.colour,) if old.colour else ())


def with_coats(old: Painted2) -> Painted3:
    return Painted3(wall=old.wall, colours=old.colours, coats=len(old.colours))


NEWEST = {("wall.painted", 3): Painted3, ("wall.washed", 1): Washed}
OLDER = {("wall.painted", 1): Retired(Painted1, with_colours), ("wall.painted", 2): Retired(Painted2, with_coats)}
READ = readers(NEWEST, OLDER)
TEXTS = st.text(max_size=8)
ENCODE = msgspec.json.Encoder(order="deterministic").encode


@given(wall=TEXTS, colour=TEXTS)
def test_the_first_version_is_read_through_all_that_followed(wall: str, colour: str) -> None:
    old = Painted1(wall=wall, colour=colour)
    assert READ["wall.painted", 1](ENCODE(old)) == with_coats(with_colours(old))


@given(wall=TEXTS, colours=st.lists(TEXTS, max_size=3))
def test_every_version_reads_as_what_would_be_written_now(wall: str, colours: list[str]) -> None:
    old = Painted2(wall=wall, colours=tuple(colours))
    new = READ["wall.painted", 2](ENCODE(old))
    assert new == with_coats(old)
    assert READ["wall.painted", 3](ENCODE(new)) == new


@given(wall=TEXTS, colour=TEXTS.filter(bool))
def test_one_fact_reads_alike_from_every_version_that_can_say_it(wall: str, colour: str) -> None:
    said = (
        Painted1(wall=wall, colour=colour),
        Painted2(wall=wall, colours=(colour,)),
        Painted3(wall=wall, colours=(colour,), coats=1),
    )
    assert {READ["wall.painted", number](ENCODE(one)) for number, one in enumerate(said, 1)} == {said[-1]}


def test_an_event_that_never_changed_has_one_version() -> None:
    assert READ["wall.washed", 1](b'{"wall":"north"}') == Washed(wall="north")
    assert READ.keys() == NEWEST.keys() | OLDER.keys()


@pytest.mark.parametrize("data", [b"{", b'{"wall":"north"}', b'{"wall":"north","colour":7}'])
def test_bytes_that_are_not_of_the_version_are_refused_by_it(data: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        READ["wall.painted", 1](data)


def test_a_catalogue_with_a_gap_or_with_two_newest_versions_is_a_bug() -> None:
    with pytest.raises(AssertionError, match=r"wall\.painted 1 is retired, and nothing follows it"):
        readers(NEWEST, {("wall.painted", 1): OLDER["wall.painted", 1]})
    with pytest.raises(AssertionError, match="one version that is written"):
        readers({**NEWEST, ("wall.painted", 2): Painted2}, {})


def test_ours_has_the_form() -> None:
    assert readers(CATALOG, RETIRED).keys() == CATALOG.keys() | RETIRED.keys()


# A log: as if node.addresses_changed had once had its addresses in one text, and had changed since.


class AddressesInOneText(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    addresses: str


NAME = "node.addresses_changed"


def taken_apart(old: AddressesInOneText) -> NodeAddressesChanged:
    return NodeAddressesChanged(name=old.name, addresses=tuple(filter(None, old.addresses.split(" "))))


def old_draft(event: NodeAddressesChanged, cause: str) -> Draft:
    """The event as the version of then wrote it."""
    data = ENCODE(AddressesInOneText(name=event.name, addresses=" ".join(event.addresses)))
    texts = codec._join(NODE.encode(), NAME.encode(), b"agent", cause.encode(), data)
    return Draft(NODE, event, NAME, 1, "agent", cause, data.decode(), texts)


@pytest.fixture
def evolved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses are apart in version 2, which is written now."""
    read = readers({(NAME, 2): NodeAddressesChanged}, {(NAME, 1): Retired(AddressesInOneText, taken_apart)})
    for schema in (1, 2):
        monkeypatch.setitem(codec._READ, (NAME.encode(), schema), read[NAME, schema])
    monkeypatch.setitem(codec._KINDS, NodeAddressesChanged, (NAME, 2, NAME.encode(), read[NAME, 2]))
    monkeypatch.setattr(snapshots, "EVERY", 20)
    monkeypatch.setattr(module, "_LISTED", 10)


@pytest.fixture
def events() -> list:
    """What happens on a node, with many changes of addresses."""
    found: list = []
    for number, decided in zip(range(80), churn.Churn(Random(4), pods=6, policies=5).turns(), strict=False):
        found += decided
        if number:
            addresses = tuple(f"192.0.2.{one}" for one in range(number % 4))
            found.append((NODE, NodeAddressesChanged(name="n1", addresses=addresses)))
    return found


@pytest.fixture
def path(tmp_path: Path, evolved, events) -> Path:
    """A log of which the first half was written when the first version was the newest."""
    chain, rows = Chain(), []
    for number, (stream, event) in enumerate(events):
        if isinstance(event, NodeAddressesChanged) and number < len(events) // 2:
            drafts = (old_draft(event, f"step {number}"),)
        else:
            expected = {stream: chain.versions.get(stream, 0)}
            drafts = draft(
                Proposed(events=((stream, event),), expected=expected, actor="agent", cause=f"step {number}")
            )
        rows += chain.extend(drafts, {}, churn.BEGAN_NS + number)[0]
    return churn.stored(tmp_path / "log.db", rows)


def expected(events: list) -> History:
    return History(MemoryReader(churn.rows_of(tuple(events))[1]))


def same(found: History, wanted: History) -> None:
    """Events, states and tables are those of a log that was written by the newest version alone."""
    assert [one.event for one in found.entries(0, wanted.head)] == [one.event for one in wanted.entries(0, wanted.head)]
    for position in range(0, wanted.head + 1, 7):
        assert found.ledger(position).dump() == wanted.ledger(position).dump()
    there, here = found.moment(wanted.head).tables, wanted.moment(wanted.head).tables
    assert all(there.table(name) == here.table(name) for name in UPSERT_ORDER)
    assert found.find(Wanted(object="node n1")) == wanted.find(Wanted(object="node n1"))
    assert [one.position for one in found.about(["node n1"], 5, 90)] == [
        one.position for one in wanted.about(["node n1"], 5, 90)
    ]


def test_an_old_log_is_sound_and_says_what_a_new_one_says(path: Path, events: list) -> None:
    assert verify_file(str(path)).fault == ""
    for _ in range(2):  # the second time by snapshots and index
        with open_history(str(path)) as history:
            same(history, expected(events))


def test_it_is_exported_and_imported_byte_for_byte(path: Path, events: list, tmp_path: Path) -> None:
    with open_history(str(path)) as history:
        lines = b"".join(line + b"\n" for line in export(history, 0))
    assert b'"schema":1,' in lines and b'"schema":2,' in lines
    import_log(io.BytesIO(lines), str(tmp_path / "imported.db"))
    assert verify_file(str(tmp_path / "imported.db")) == verify_file(str(path))
    with open_history(str(tmp_path / "imported.db")) as history:
        same(history, expected(events))


def test_it_is_archived_as_it_is(path: Path, events: list) -> None:
    before = verify_file(str(path))
    assert archive_file(str(path), lambda _: 10).events
    assert verify_file(str(path)) == before
    with open_history(str(path)) as history:
        same(history, expected(events))


@pytest.mark.anyio
async def test_an_agent_goes_on_with_the_newest_version(path: Path, events: list) -> None:
    more = (NODE, NodeAddressesChanged(name="n1", addresses=("192.0.2.200",)))
    async with SqliteLog.open(str(path), TickingClock()) as log:
        versions = log.folded().versions
        await log.append(Proposed(events=(more,), expected={NODE: versions[NODE]}, actor="agent"))
    with open_history(str(path)) as history:
        same(history, expected([*events, more]))
        assert [one.schema for one in history.stored(history.head - 1, history.head)] == [2]
