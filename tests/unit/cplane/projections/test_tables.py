"""All tables together: what would not fit into the kernel is refused, and says whose it is."""

import pytest

from cplane.events.catalog import Event
from cplane.projections.tables import TableFull, Tables
from tests.support.builders import DUAL_STACK, allocated, audited, cnp, pod_labels, selector, upserted
from tests.support.scenario import endpoint_created

API, VARIANT = 301, 1 << 27
OF_WEB = cnp("a", ingress=[{"fromEndpoints": [selector("app=web")]}])


def tables(*events: Event, policy: int = API) -> Tables:
    """Twenty identities of web, and an endpoint of the api that obeys this policy."""
    labels = pod_labels("app=api")
    webs = [allocated(number, pod_labels("app=web", f"n={number}")) for number in range(400, 420)]
    api = endpoint_created(endpoint=1, ipv4="", ipv6="", identity=API, policy=policy, labels=labels.texts())
    return Tables((DUAL_STACK, allocated(API, labels), *webs, api, *events))


def test_a_policy_that_needs_too_many_rows_is_named() -> None:
    made = tables(upserted(OF_WEB))
    assert made.policies.entries_by_policy() == {API: 22}
    made.check(policy_entries=22)
    with pytest.raises(TableFull, match="of the endpoints that obey policy 301 would need 22 entries and holds 21"):
        made.check(policy_entries=21)


def test_one_that_is_too_long_only_with_what_is_audited_is_named_by_the_same_number() -> None:
    made = tables(upserted(audited(OF_WEB)))
    made.check(policy_entries=22)
    whose = "of the endpoints that obey policy 301, audited rules included, would need 22 entries and holds 21"
    with pytest.raises(TableFull, match=whose):
        made.check(policy_entries=21)


def test_a_policy_that_is_not_one_of_a_whole_identity_is_not_called_one() -> None:
    with pytest.raises(TableFull, match="of the endpoints that obey policy 134217728 would need 22 entries"):
        tables(upserted(OF_WEB), policy=VARIANT).check(policy_entries=21)
