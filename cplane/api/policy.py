"""Policies over gRPC: text in, canonical objects to the decider, its refusals back to places in the text."""

from collections.abc import AsyncIterator
from typing import Final

import anyio
import anyio.to_thread

from cplane.api.config import options_to_pb
from cplane.api.policy_status import PolicyStatuses, entries_by_cookie, entries_by_origin
from cplane.api.ports import Agent, Engine
from cplane.api.streaming import StreamingService
from cplane.config.documents import BadDocuments, Object, located, read_objects
from cplane.config.problems import Problem
from cplane.deciders.naming import called, objects_of
from cplane.deciders.policy import (
    ApplyPolicies,
    DeletePolicies,
    InvalidDocuments,
    NoSuchPolicy,
    PolicyState,
    decide_apply,
)
from cplane.domain.policy import CidrGroup, PolicyRef
from cplane.domain.policy.parse import CLUSTER_WIDE, DEFAULT_NAMESPACE
from cplane.engine.engine import Refusal
from cplane.errors import CplaneError
from cplane.events.policy import PolicyDeleted, PolicyUpserted
from cplane.pb.cplane.admin import v1 as pb
from cplane.projections.tables import POLICY
from cplane.transport.calls import caller

_BATCH: Final = 10  # policies; a few milliseconds of encoding, during which nobody else is served
_INLINE_BYTES: Final = 8192  # a longer text is read in a thread: it takes about a millisecond per kilobyte


class PolicyService(StreamingService, pb.PolicyServiceBase):
    """Applies, deletes and shows policies and the groups of prefixes that they refer to."""

    def __init__(self, engine: Engine, agent: Agent) -> None:
        self._engine, self._agent = engine, agent
        self._turn = anyio.Lock()  # what was there before a change is known only when changes take turns

    async def apply(self, message: pb.ApplyPolicyRequest) -> pb.ApplyPolicyResponse:
        """All objects of the text are in force at the position, or BadDocuments and none is."""
        objects = await self._read(message.documents, "apply policies")
        command = ApplyPolicies(documents=tuple(one.text for one in objects))
        try:
            if len(message.documents) > _INLINE_BYTES:
                # What is wrong with a long text is found beside the engine, which would serve nobody else meanwhile.
                cluster = self._engine.world.cluster
                try:
                    await anyio.to_thread.run_sync(decide_apply, command, PolicyState(), cluster)
                except CplaneError as error:
                    names = tuple(objects_of(command))
                    self._engine.refuse(Refusal(called(command), names, caller(), "", error))
                    raise
            async with self._turn:
                before = self._engine.world.policies
                committed = await self._engine.submit(command, actor=caller())
        except InvalidDocuments as invalid:
            raise located(invalid, objects) from None
        changed = {_ref_of_event(event) for event in committed.events if isinstance(event, PolicyUpserted)}
        applied = []
        for one in objects:
            ref = _ref_of(one)
            outcome = pb.Outcome.UNCHANGED
            if ref in changed:
                outcome = pb.Outcome.CHANGED if ref in before else pb.Outcome.CREATED
            applied.append(pb.AppliedPolicy(ref=_ref_to_pb(ref), outcome=outcome))
        return pb.ApplyPolicyResponse(position=committed.position, policies=applied)

    async def delete(self, message: pb.DeletePolicyRequest) -> pb.DeletePolicyResponse:
        """None of the policies exists at the position, or NoSuchPolicy and nothing has changed."""
        refs = [_ref_from_pb(ref) for ref in message.refs]
        if message.documents:
            refs.extend(_ref_of(one) for one in await self._read(message.documents, "delete policies"))
        if not refs:
            problem = Problem(0, "", "say which policies: by name or by the text that they were applied with")
            raise BadDocuments((problem,), "policy.none_named")
        async with self._turn:
            committed = await self._engine.submit(DeletePolicies(refs=tuple(refs)), actor=caller())
        deleted = [_ref_of_event(event) for event in committed.events if isinstance(event, PolicyDeleted)]
        return pb.DeletePolicyResponse(position=committed.position, deleted=[_ref_to_pb(ref) for ref in deleted])

    async def list(self, message: pb.ListPoliciesRequest) -> pb.ListPoliciesResponse:
        """All policies, or those of one namespace."""
        world = self._engine.world
        policies = [self._policy(ref) for ref in self._refs(message.namespace)]
        return pb.ListPoliciesResponse(position=world.position, revision=world.policy_revision, policies=policies)

    async def get(self, message: pb.GetPolicyRequest) -> pb.GetPolicyResponse:
        """One policy. Raises NoSuchPolicy."""
        ref = self._known(message.ref)
        return pb.GetPolicyResponse(position=self._engine.world.position, policy=self._policy(ref))

    async def status(self, message: pb.PolicyStatusRequest) -> AsyncIterator[pb.PolicyStatusResponse]:
        """What became of all policies, of those of one namespace, or of one. Raises NoSuchPolicy."""
        refs = (self._known(message.ref),) if message.ref is not None else self._refs(message.namespace)
        engine = self._engine
        cookies = tuple(row.cookie for row in engine.desired(POLICY).values())
        by_cookie = await anyio.to_thread.run_sync(entries_by_cookie, cookies)
        entries = entries_by_origin(engine.policies, by_cookie)
        for start in range(0, max(1, len(refs)), _BATCH):
            # Each batch is of one moment.
            world, statuses = engine.world, PolicyStatuses(engine, entries, self._agent.proxy_problems())
            yield pb.PolicyStatusResponse(
                position=world.position,
                applied=engine.applied,
                revision=world.policy_revision,
                options=options_to_pb(world.options),
                policies=[statuses.of(ref) for ref in refs[start : start + _BATCH] if ref in world.policies],
            )

    async def _read(self, data: bytes, command: str) -> tuple[Object, ...]:
        """The objects of a text; that of a `command` which cannot be read is a refusal. Raises BadDocuments."""
        try:
            if len(data) <= _INLINE_BYTES:
                return read_objects(data)
            return await anyio.to_thread.run_sync(read_objects, data)
        except CplaneError as error:
            self._engine.refuse(Refusal(command, (), caller(), "", error))
            raise

    def _refs(self, namespace: str) -> tuple[PolicyRef, ...]:
        return tuple(sorted(ref for ref in self._engine.world.policies if namespace in {"", ref.namespace}))

    def _known(self, message: pb.PolicyRef | None) -> PolicyRef:
        ref = _ref_from_pb(message or pb.PolicyRef())
        if ref not in self._engine.world.policies:
            raise NoSuchPolicy.of((ref,), self._engine.world.policies)
        return ref

    def _policy(self, ref: PolicyRef) -> pb.Policy:
        world = self._engine.world
        shown = pb.Policy(ref=_ref_to_pb(ref), document=world.policy.documents[ref])
        held = world.policies[ref]
        if isinstance(held, CidrGroup):
            shown.prefixes = len(held.prefixes)
        else:
            shown.rules, shown.audit = len(held.rules), held.audit
        return shown


def _ref_of(one: Object) -> PolicyRef:
    kind, namespace, name = one.name()
    return PolicyRef(kind, "" if kind in CLUSTER_WIDE else namespace or DEFAULT_NAMESPACE, name)


def _ref_of_event(event: PolicyUpserted | PolicyDeleted) -> PolicyRef:
    return PolicyRef(event.kind, event.namespace, event.name)


def _ref_to_pb(ref: PolicyRef) -> pb.PolicyRef:
    return pb.PolicyRef(kind=ref.kind, namespace=ref.namespace, name=ref.name)


def _ref_from_pb(ref: pb.PolicyRef) -> PolicyRef:
    return PolicyRef(ref.kind, ref.namespace, ref.name)
