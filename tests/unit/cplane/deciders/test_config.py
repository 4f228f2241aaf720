"""Options of the node change while it runs, and are facts."""

import pytest

from cplane.deciders.config import BadOption, ChangeOptions, Options
from cplane.deciders.world import evolve, facts
from cplane.domain.policy.repository import Enforcement
from cplane.events.config import OptionsChanged
from cplane.events.envelope import CONFIG
from tests.support.scenario import JOIN, given, replayed, when


def test_what_is_given_changes_and_the_rest_stays():
    world = given(JOIN)
    assert world.options == Options(Enforcement.DEFAULT, policy_audit=False)
    events = when(world, ChangeOptions(policy_enforcement="always"))
    assert events == [OptionsChanged(policy_enforcement="always", policy_audit=False)]
    world = given(JOIN, ChangeOptions(policy_enforcement="always"))
    events = when(world, ChangeOptions(policy_audit=True))
    assert events == [OptionsChanged(policy_enforcement="always", policy_audit=True)]


@pytest.mark.parametrize(
    "command",
    [
        ChangeOptions(),
        ChangeOptions(policy_enforcement="never"),
        ChangeOptions(policy_audit=True),
        ChangeOptions(policy_enforcement="never", policy_audit=True),
    ],
)
def test_what_is_so_already_is_no_event(command):
    assert when(given(JOIN, ChangeOptions(policy_enforcement="never", policy_audit=True)), command) == []


@pytest.mark.parametrize("mode", ["", "Always", "on", "none"])
def test_a_mode_that_there_is_not_is_refused_with_those_that_there_are(mode):
    with pytest.raises(BadOption, match=f"PolicyEnforcement: '{mode}' is none of default, always, never"):
        when(given(JOIN), ChangeOptions(policy_enforcement=mode))


def test_a_mode_that_is_not_known_any_more_folds_to_the_strictest():
    world = evolve(given(JOIN), CONFIG, OptionsChanged(policy_enforcement="sometimes", policy_audit=False))
    assert world.options.policy_enforcement is Enforcement.ALWAYS


def test_options_are_among_the_facts_only_where_they_are_not_the_usual():
    history = [JOIN, ChangeOptions(policy_enforcement="always")]
    assert [type(one).__name__ for one in facts(given(JOIN))] == ["NodeJoined", "NodeAddressesChanged"]
    assert OptionsChanged(policy_enforcement="always", policy_audit=False) in list(facts(given(*history)))
    back = given(*history, ChangeOptions(policy_enforcement="default"))
    assert not [one for one in facts(back) if isinstance(one, OptionsChanged)]
    assert replayed(history) == given(*history)
