"""The admin API over a unix socket, in front of an engine without a datapath."""

import json
import os
import pwd
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from cplane.pb.cplane.admin import v1 as pb
from cplane.transport.client import ClientChannel
from tests.support.admin import ALLOW_WEB, DENY_ALL, administered
from tests.support.engine import ListEngine
from tests.support.scenario import pod

pytestmark = pytest.mark.anyio
ME = f"uid:{os.getuid()}({pwd.getpwuid(os.getuid()).pw_name})"
CNP, CCNP = "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy"


@pytest.fixture
def anyio_backend() -> str:
    """grpclib is written for asyncio."""
    return "asyncio"


@pytest.fixture
def engine() -> ListEngine:
    return ListEngine(pod("web", "k8s:app=web", ifindex=10), pod("client", "k8s:app=client", ifindex=11))


@pytest.fixture
async def channel(engine: ListEngine, tmp_path: Path) -> AsyncIterator[ClientChannel]:
    async with administered(engine, tmp_path / "cpt.sock") as channel:
        yield channel


async def refused(channel: ClientChannel, text: str | bytes) -> tuple[Status, list[tuple[int, str]]]:
    """Status, and document and path of each error, of applying the text."""
    data = text.encode() if isinstance(text, str) else text
    with pytest.raises(GRPCError) as told:
        await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=data))
    errors = json.loads(channel.refusal)["errors"]
    return told.value.status, [(one["document"], one["path"]) for one in errors]


async def test_applying_says_what_became_of_each_object_and_who_asked_is_in_the_log(
    channel: ClientChannel, engine: ListEngine
):
    stub = pb.PolicyServiceStub(channel)
    before = engine.head
    first = await stub.apply(pb.ApplyPolicyRequest(documents=ALLOW_WEB.encode()))
    both = f"{ALLOW_WEB}---\n{DENY_ALL}"
    second = await stub.apply(pb.ApplyPolicyRequest(documents=both.encode()))
    third = await stub.apply(pb.ApplyPolicyRequest(documents=both.replace('"80"', '"81"').encode()))
    fourth = await stub.apply(pb.ApplyPolicyRequest(documents=DENY_ALL.encode()))
    outcomes = [[one.outcome.name for one in answer.policies] for answer in (first, second, third, fourth)]
    assert outcomes == [["CREATED"], ["UNCHANGED", "CREATED"], ["CHANGED", "UNCHANGED"], ["UNCHANGED"]]
    assert [one.ref for one in second.policies] == [
        pb.PolicyRef(kind=CNP, namespace="shop", name="web"),
        pb.PolicyRef(kind=CCNP, name="nothing"),
    ]
    assert before < first.position < second.position < third.position == fourth.position == engine.head
    assert {entry.actor for entry in engine.log.entries[before:]} == {ME}


async def test_an_object_without_a_namespace_is_in_the_default_one(channel: ClientChannel):
    text = ALLOW_WEB.replace(", namespace: shop", "")
    answer = await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=text.encode()))
    assert answer.policies[0].ref == pb.PolicyRef(kind=CNP, namespace="default", name="web")
    assert answer.policies[0].outcome is pb.Outcome.CREATED


BAD = ALLOW_WEB.replace("name: web", "name: bad").replace("fromEndpoints", "fromEndpints").replace('"80"', '"http!"')


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("", [(0, "")]),
        ("a: [", [(1, "line 2 column 1")]),
        (b"\xff", [(0, "")]),
        ("kind: X\nmetadata: {name: a, name: b}", [(1, "metadata.name")]),
        ("kind: X\nmetadata: {name: a}", [(1, "kind")]),
        ("kind: NetworkPolicies\nmetadata: {name: a}", [(1, ""), (1, ""), (1, "kind")]),
        (f"{ALLOW_WEB}---\n{ALLOW_WEB}", [(2, "metadata.name")]),
        (
            f"{ALLOW_WEB}---\n{BAD}",
            [(2, "spec.ingress[0].fromEndpints"), (2, "spec.ingress[0].toPorts[0].ports[0].port")],
        ),
        (
            json.dumps({"kind": "List", "items": [{}, {"kind": "X"}]}),
            None,
        ),
    ],
)
async def test_what_cannot_be_applied_is_told_by_document_and_path_and_nothing_is_applied(
    channel: ClientChannel, engine: ListEngine, text: str | bytes, places: list[tuple[int, str]] | None
):
    before = engine.head
    status, told = await refused(channel, text)
    assert status is Status.INVALID_ARGUMENT
    if places is None:
        assert {path.split(".")[0] for _, path in told} == {"items[0]", "items[1]"}
    else:
        assert sorted(told) == sorted(places)
    assert engine.head == before


async def test_what_cannot_be_read_is_kept_as_refused_whatever_it_was_for(channel: ClientChannel, engine: ListEngine):
    await refused(channel, "a: [")
    with pytest.raises(GRPCError):
        await pb.PolicyServiceStub(channel).delete(pb.DeletePolicyRequest(documents=b"a: ["))
    assert [(one.command, one.actor) for one in engine.refused] == [("apply policies", ME), ("delete policies", ME)]


async def test_a_large_text_is_read_in_a_thread_with_the_same_result(channel: ClientChannel, engine: ListEngine):
    many = "---\n".join(ALLOW_WEB.replace("name: web", f"name: web-{n}") for n in range(100))
    answer = await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=many.encode()))
    assert len(answer.policies) == len(engine.world.policies) == 100


async def test_policies_are_listed_in_order_and_shown_as_they_were_applied(channel: ClientChannel):
    stub = pb.PolicyServiceStub(channel)
    await stub.apply(pb.ApplyPolicyRequest(documents=f"{ALLOW_WEB}---\n{DENY_ALL}".encode()))
    listed = await stub.list(pb.ListPoliciesRequest())
    assert [(one.ref.name, one.rules) for one in listed.policies if one.ref] == [("nothing", 1), ("web", 1)]
    assert listed.revision == 2
    shop = await stub.list(pb.ListPoliciesRequest(namespace="shop"))
    assert [one.ref.name for one in shop.policies if one.ref] == ["web"]
    got = await stub.get(pb.GetPolicyRequest(ref=pb.PolicyRef(kind=CNP, namespace="shop", name="web")))
    assert got.policy is not None
    assert json.loads(got.policy.document)["metadata"] == {"name": "web", "namespace": "shop"}


async def test_deleting_takes_names_and_texts_and_all_or_nothing(channel: ClientChannel, engine: ListEngine):
    stub = pb.PolicyServiceStub(channel)
    await stub.apply(pb.ApplyPolicyRequest(documents=f"{ALLOW_WEB}---\n{DENY_ALL}".encode()))
    web, nothing = pb.PolicyRef(kind=CNP, namespace="shop", name="web"), pb.PolicyRef(kind=CCNP, name="nothing")
    absent = pb.PolicyRef(kind=CNP, namespace="shop", name="absent")
    with pytest.raises(GRPCError, match="no such policy: CiliumNetworkPolicy shop/absent"):
        await stub.delete(pb.DeletePolicyRequest(refs=[web, absent]))
    with pytest.raises(GRPCError, match="which policies"):
        await stub.delete(pb.DeletePolicyRequest())
    assert len(engine.world.policies) == 2
    answer = await stub.delete(pb.DeletePolicyRequest(refs=[nothing], documents=ALLOW_WEB.encode()))
    assert answer.deleted == [nothing, web]
    assert answer.position == engine.head
    assert not engine.world.policies


async def test_a_storage_failure_is_unavailable_and_nothing_is_applied(channel: ClientChannel, engine: ListEngine):
    engine.broken = "the disk is full"
    with pytest.raises(GRPCError) as told:
        await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=ALLOW_WEB.encode()))
    assert (told.value.status, told.value.message) == (Status.UNAVAILABLE, "the disk is full")


async def test_endpoints_are_shown_and_relabelled(channel: ClientChannel, engine: ListEngine):
    stub = pb.EndpointServiceStub(channel)
    listed = (await stub.list(pb.ListEndpointsRequest())).endpoints
    assert [(one.pod, one.host_ifindex) for one in listed] == [("web", 10), ("client", 11)]
    one = (await stub.get(pb.GetEndpointRequest(id=listed[0].id))).endpoint
    assert one == listed[0]
    answer = await stub.relabel(pb.RelabelEndpointRequest(id=listed[0].id, labels=["app=db", "k8s:x="]))
    assert answer.endpoint is not None
    assert {"k8s:app=db", "k8s:x="} <= set(answer.endpoint.labels)
    assert answer.endpoint.identity != listed[0].identity
    assert engine.log.entries[-1].actor == ME
    with pytest.raises(GRPCError, match="there is no endpoint 999"):
        await stub.get(pb.GetEndpointRequest(id=999))
    with pytest.raises(GRPCError, match="there is no endpoint 999"):
        await stub.relabel(pb.RelabelEndpointRequest(id=999, labels=["a=b"]))
    with pytest.raises(GRPCError, match="the key is empty"):
        await stub.relabel(pb.RelabelEndpointRequest(id=listed[0].id, labels=["=b"]))


async def test_identities_are_found_by_number_and_by_labels(channel: ClientChannel, engine: ListEngine):
    stub = pb.IdentityServiceStub(channel)
    listed = (await stub.list(pb.ListIdentitiesRequest())).identities
    numbers = [one.number for one in listed]
    assert numbers == sorted(numbers)
    assert listed[0] == pb.Identity(number=1, labels=["reserved:host="], scope=pb.Scope.RESERVED)
    web = next(one for one in listed if "k8s:app=web" in one.labels)
    assert web.scope is pb.Scope.CLUSTER
    assert web.endpoints == [one.id for one in engine.world.endpoints.values() if one.pod == "web"]
    assert (await stub.get(pb.GetIdentityRequest(number=web.number))).identity == web
    assert (await stub.get(pb.GetIdentityRequest(labels=web.labels[::-1]))).identity == web
    for request in (pb.GetIdentityRequest(number=9999), pb.GetIdentityRequest(labels=["k8s:app=web"])):
        with pytest.raises(GRPCError, match="there is no identity") as told:
            await stub.get(request)
        assert told.value.status is Status.NOT_FOUND


async def test_every_prefix_says_why_it_is_known(channel: ClientChannel, engine: ListEngine):
    text = ALLOW_WEB.replace("fromEndpoints: [{matchLabels: {app: client}}]", "fromCIDR: [192.0.2.0/24]")
    await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=text.encode()))
    entries = {one.prefix: one for one in (await pb.IpServiceStub(channel).list(pb.ListIpsRequest())).entries}
    assert entries["192.0.2.0/24"].source == "policy"
    assert "cidr:192.0.2.0/24=" in entries["192.0.2.0/24"].labels
    assert entries["0.0.0.0/0"].source == "world"
    web = next(one for one in engine.world.endpoints.values() if one.pod == "web")
    mine = entries[f"{web.ipv4}/32"]
    assert (mine.source, mine.endpoint, mine.identity) == ("endpoint", web.id, web.identity)
    assert any(one.source == "host" for one in entries.values())


async def dumped(channel: ClientChannel, table: str, endpoint: int = 0) -> list[pb.DumpMapResponse]:
    request = pb.DumpMapRequest(table=table, endpoint=endpoint)
    return [batch async for batch in pb.MapServiceStub(channel).dump(request)]


async def test_a_table_is_shown_wanted_beside_present(channel: ClientChannel, engine: ListEngine):
    target = engine.targets["ipcache"]
    keys = sorted(target.rows)
    strange = keys[0]._replace(addr=bytes([203, 0, 113, 9]) + bytes(12), family=1, prefix_bits=32)
    target.rows[strange] = target.rows.pop(keys[0])
    target.rows[keys[1]] = target.rows[keys[1]]._replace(identity=4711)
    (batch,) = await dumped(channel, "ipcache")
    assert batch.key_columns == ["prefix"]
    assert batch.position == batch.applied == engine.head
    by_difference = {row.difference: row for row in batch.rows}
    assert by_difference[pb.Difference.EXTRA].key == ["203.0.113.9/32"]
    assert by_difference[pb.Difference.EXTRA].desired == []
    assert by_difference[pb.Difference.MISSING].actual == []
    changed = by_difference[pb.Difference.CHANGED]
    assert changed.actual[0] == "4711" != changed.desired[0]
    assert sum(row.difference is pb.Difference.NONE for row in batch.rows) == len(keys) - 2


async def test_a_table_can_be_cut_to_one_endpoint(channel: ClientChannel, engine: ListEngine):
    web = next(one for one in engine.world.endpoints.values() if one.pod == "web")
    await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=ALLOW_WEB.encode()))
    (policy,) = await dumped(channel, "policy", web.id)
    assert policy.rows
    assert {row.key[0] for row in policy.rows} == {str(web.identity)}
    assert {"80"} <= {row.key[5] for row in policy.rows}
    (ipcache,) = await dumped(channel, "ipcache", web.id)
    assert [row.key for row in ipcache.rows] == [[f"{web.ipv4}/32"], [f"{web.ipv6}/128"]]
    (lxc,) = await dumped(channel, "lxc", web.id)
    assert len(lxc.rows) == 2
    (devices,) = await dumped(channel, "devices", web.id)
    assert [row.key for row in devices.rows] == [["10"]]


async def test_the_policy_of_an_endpoint_comes_with_its_audit_plane_and_the_rules_behind_each_row(
    channel: ClientChannel, engine: ListEngine
):
    audited = ALLOW_WEB.replace("namespace: shop", 'namespace: shop, annotations: {policy.cplane.io/audit: "true"}')
    await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=audited.encode()))
    web = next(one for one in engine.world.endpoints.values() if one.pod == "web")
    (table,) = await dumped(channel, "policy", web.id)
    planes = [row.key[1] for row in table.rows]
    assert {*planes} == {"enforced", "audit"}
    ((audit, rules),) = {(row.desired[3], row.desired[5]) for row in table.rows if row.key[5] == "80"}
    assert (audit, rules) == ("-", "CiliumNetworkPolicy shop/web spec.ingress[0]")
    assert {row.desired[3] for row in table.rows if row.key[1] == "enforced"} == {"yes"}


async def test_large_tables_come_in_batches_and_empty_ones_with_their_columns(
    channel: ClientChannel, engine: ListEngine
):
    target = engine.targets["ipcache"]
    key, value = next(iter(target.rows.items()))
    target.rows |= {
        key._replace(addr=bytes([192, 0, 2, n]) + bytes(12), family=1, prefix_bits=32): value for n in range(250)
    }
    batches = await dumped(channel, "ipcache")
    assert [bool(batch.key_columns) for batch in batches] == [True] + [False] * (len(batches) - 1)
    assert sum(len(batch.rows) for batch in batches) == len(target.rows)
    assert max(len(batch.rows) for batch in batches) == 25
    with pytest.raises(GRPCError, match="there is no table 'x'; known are devices, ipcache, lxc, policy"):
        await dumped(channel, "x")
    with pytest.raises(GRPCError, match="there is no endpoint 999"):
        await dumped(channel, "policy", 999)


async def test_the_status_says_everything_at_one_glance(channel: ClientChannel, engine: ListEngine):
    engine.lag = True
    await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=ALLOW_WEB.encode()))
    status = await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())
    assert (status.node, status.cluster, status.datapath, status.version) == ("n1", "default", "memory", "0.0.1")
    assert (status.head, status.applied, status.in_sync) == (engine.head, engine.head - 1, False)
    assert (status.endpoints, status.policies, status.policy_revision) == (2, 1, 1)
    assert status.digest == engine.log.entries[-1].digest.hex()
    assert status.uptime_ns == 1_000_000_000
    assert status.monitor == pb.MonitorStatus(enabled=True, seen=10, lost=2)
    assert {count.table for count in status.tables} == {"policy", "ipcache", "lxc", "devices"}
    engine.catch_up()
    assert (await pb.StatusServiceStub(channel).get(pb.GetStatusRequest())).in_sync


async def test_waiting_returns_when_the_datapath_has_the_position(channel: ClientChannel, engine: ListEngine):
    engine.lag = True
    applied = await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=ALLOW_WEB.encode()))
    stub = pb.StatusServiceStub(channel)
    engine.failure = "map full"
    with pytest.raises(GRPCError) as told:
        await stub.wait(pb.WaitRequest(position=applied.position, timeout_ns=1_000_000))
    assert told.value.message == (
        f"position {applied.position} is not in the datapath after 0.001 s: it has {engine.applied}, "
        f"the log has {engine.head}; the datapath refuses: map full"
    )
    answers = []

    async def wait() -> None:
        answers.append(await stub.wait(pb.WaitRequest(position=applied.position)))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await stub.get(pb.GetStatusRequest())  # its answer comes after the wait was taken in
            assert not answers
            engine.catch_up()
    assert answers[0].applied == engine.head


async def test_the_doctor_tells_what_is_lacking_and_how_to_get_it(channel: ClientChannel):
    checks = (await pb.StatusServiceStub(channel).doctor(pb.DoctorRequest())).checks
    assert [(one.name, one.ok, one.remedy) for one in checks] == [("bpffs", True, ""), ("btf", False, "another kernel")]


async def tail(channel: ClientChannel, **request: int) -> list[int]:
    stub = pb.LogServiceStub(channel)
    return [e.position async for b in stub.tail(pb.TailLogRequest(**request)) for e in b.entries]  # type: ignore[arg-type]


async def test_the_log_is_shown_from_a_position_or_the_last_events(channel: ClientChannel, engine: ListEngine):
    head = engine.head
    assert await tail(channel) == list(range(1, head + 1))
    assert await tail(channel, from_=3) == list(range(3, head + 1))
    assert await tail(channel, last=2) == [head - 1, head]
    assert await tail(channel, last=10_000) == list(range(1, head + 1))
    assert await tail(channel, from_=head + 1) == []
    with pytest.raises(GRPCError, match="give one of them"):
        await tail(channel, from_=1, last=1)


async def test_a_log_entry_says_who_did_what_when(channel: ClientChannel, engine: ListEngine):
    await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=ALLOW_WEB.encode()))
    batches = [batch async for batch in pb.LogServiceStub(channel).tail(pb.TailLogRequest(last=1))]
    (entry,) = batches[0].entries
    assert (entry.type, entry.schema, entry.stream, entry.actor) == ("policy.upserted", 1, "policy", ME)
    assert entry.summary == "CiliumNetworkPolicy shop/web applied"
    assert entry.recorded_at_ns == engine.log.entries[-1].recorded_at_ns
    assert json.loads(entry.data)["name"] == "web"
    assert entry.digest == engine.log.entries[-1].digest.hex()


async def test_following_goes_on_with_the_events_to_come(channel: ClientChannel, engine: ListEngine):
    seen: list[int] = []
    caught_up, done = anyio.Event(), anyio.Event()

    async def follow() -> None:
        async for batch in pb.LogServiceStub(channel).tail(pb.TailLogRequest(last=1, follow=True)):
            seen.extend(entry.position for entry in batch.entries)
            caught_up.set()
            if len(seen) == 2:
                done.set()

    before = engine.head
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            await caught_up.wait()
            await pb.PolicyServiceStub(channel).apply(pb.ApplyPolicyRequest(documents=ALLOW_WEB.encode()))
            await done.wait()
            group.cancel_scope.cancel()
    assert seen == [before, before + 1]


async def test_verification_tells_where_the_first_fault_is(channel: ClientChannel):
    found = await pb.LogServiceStub(channel).verify(pb.VerifyLogRequest())
    assert (found.ok, found.events, found.position, found.fault) == (False, 3, 4, "the digest does not fit")


async def test_a_probe_is_answered_and_a_packet_that_cannot_be_is_refused(channel: ClientChannel):
    stub = pb.ProbeServiceStub(channel)
    packet = {"source": "10.0.0.1", "destination": "10.0.0.2", "protocol": 6, "source_port": 1}
    assert (await stub.probe(pb.ProbeRequest(**packet, destination_port=80))).forwarded
    dropped = await stub.probe(pb.ProbeRequest(**packet, destination_port=81))
    assert (dropped.forwarded, dropped.reason, dropped.reason_name) == (False, 133, "POLICY_DENIED")
    for changes, reason in (
        ({"source": "x"}, "source: 'x' is not an IP address"),
        ({"destination": "::1"}, "of two families"),
        ({"protocol": 256}, "protocol: 256 is not 0..255"),
        ({"source_port": 65_536}, "source_port: 65536 is not 0..65535"),
        ({"protocol": 255}, "no such protocol here"),
    ):
        with pytest.raises(GRPCError, match=reason):
            await stub.probe(pb.ProbeRequest(**{**packet, **changes}))


async def test_questions_that_this_agent_cannot_answer_are_refused(engine: ListEngine, tmp_path: Path):
    async with administered(engine, tmp_path / "cpt.sock", verify=None, probe=None) as channel:
        with pytest.raises(GRPCError, match="kept in memory"):
            await pb.LogServiceStub(channel).verify(pb.VerifyLogRequest())
        with pytest.raises(GRPCError, match="probe works on the memory datapath"):
            await pb.ProbeServiceStub(channel).probe(pb.ProbeRequest(source="::1", destination="::1"))
