"""Events that somebody wants, found in a list of them and by a listing."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from cplane.events.objects import object_of
from cplane.timetravel.wanted import Listing, Wanted
from tests.support import churn

_, ENTRIES = churn.recorded(Random(8), 60)
POSITIONS = st.integers(0, len(ENTRIES) + 1)


@settings(deadline=None)
@given(
    after=POSITIONS,
    to=st.none() | POSITIONS,
    name=st.sampled_from(["", "endpoint 99999", *sorted({object_of(one.event) for one in ENTRIES})]),
    kind=st.sampled_from(["", "policy", "endpoint", "identity", "options", "nothing"]),
    actor=st.sampled_from(["", "nobody", *churn.ACTORS]),
    last=st.none() | st.integers(0, 20),
)
def test_a_listing_finds_what_is_wanted_of_its_events(
    after: int, to: int | None, name: str, kind: str, actor: str, last: int | None
) -> None:
    wanted = Wanted(after=after, to=to, object=name, kind=kind, actor=actor, last=last)
    assert Listing(ENTRIES).find(wanted) == wanted.selects(ENTRIES)
