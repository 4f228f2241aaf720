"""Secrets that policies name, read from the API server of Kubernetes and followed as they change.

Each has a task of its own, which lists and watches that one secret: nothing else is asked for, and what nobody names
any more is forgotten. What was read stays in memory, and counts on while the server is away, as a file that kubelet
has written would; what was never read is not there, and the rule that needs it stays closed.
"""

import random
from collections.abc import Callable, Collection, Mapping
from typing import Final

import anyio
from anyio import to_thread
from anyio.abc import TaskGroup

from cplane.agent.apiserver import Locate, NoApiServer
from cplane.domain.policy.http import Items, Secret
from cplane.k8s.secrets import BadAnswer, SecretWatch
from cplane.telemetry.log import line, logger
from cplane.transport.backoff import Backoff
from cplane.transport.http_client import NoAnswer, get

log = logger("secrets")

FOLLOWED_MAX: Final = 256
"""Secrets that are followed, with a connection each. Those beyond are not there, and their status says so."""

FIRST_S: Final = 0.5
"""How long a rule waits for a secret that is new here, before it is told to the proxy without."""

RETRY_S: Final = 30.0
_IDLE_S: Final = 330.0  # longer than a watch lasts
_BYTES_MAX: Final = 4 << 20  # a secret has a mebibyte, in base64, and what is written beside it
_WATCH_LEAST_S: Final = 1.0
_OK: Final = 200
_REFUSALS: Final = {
    401: "401: who is asking is not known there",
    403: "403: the role of who is asking lacks `list` and `watch` of this secret",
}


class _Followed:
    """A secret that is followed: what is known of it, and why no more is."""

    def __init__(self) -> None:
        self.items: Items | None = None
        self.reason = ""
        self.tried = anyio.Event()
        self.scope = anyio.CancelScope()


class KubernetesSecrets:
    """Fits `cplane.xds.secrets.Source`."""

    def __init__(
        self, locate: Locate, *, retry_s: float = RETRY_S, chance: Callable[[], float] = random.random
    ) -> None:
        self._locate, self._retry_s, self._chance = locate, retry_s, chance
        self._followed: dict[Secret, _Followed] = {}
        self._left_out: frozenset[Secret] = frozenset()
        self._tasks: TaskGroup | None = None
        self._announced, self._heard = 0, 0
        self._announcement = anyio.Event()

    async def run(self) -> None:
        """What has been asked for is followed until this is cancelled."""
        async with anyio.create_task_group() as self._tasks:
            for secret, held in self._followed.items():
                self._tasks.start_soon(self._follow, secret, held)
            await anyio.sleep_forever()

    async def read(self, named: Collection[Secret]) -> Mapping[Secret, Items]:
        """What is known of these, and all others are forgotten. Waits a moment for those that are new."""
        for one in [one for one in self._followed if one not in named]:
            self._followed.pop(one).scope.cancel()
        new = []
        for one in sorted(one for one in named if one not in self._followed):
            if len(self._followed) >= FOLLOWED_MAX:
                break
            held = self._followed[one] = _Followed()
            new.append(held)
            if self._tasks is not None:
                self._tasks.start_soon(self._follow, one, held)
        self._left_out = frozenset(named) - self._followed.keys()
        with anyio.move_on_after(FIRST_S):
            for held in new:
                await held.tried.wait()
        return {one: held.items for one, held in self._followed.items() if held.items is not None}

    async def changed(self) -> None:
        """Waits until something is otherwise than when this returned last. It is for one who waits."""
        while self._heard == self._announced:
            await self._announcement.wait()
        self._heard = self._announced

    def reasons(self) -> Mapping[Secret, str]:
        """Why a secret is not there, or is not followed now."""
        found = {one: held.reason for one, held in self._followed.items() if held.reason}
        return found | dict.fromkeys(self._left_out, f"more than {FOLLOWED_MAX} secrets are named")

    async def _follow(self, secret: Secret, held: _Followed) -> None:
        try:
            watch = SecretWatch(secret.namespace, secret.name)
        except ValueError as error:
            self._tell(held, None, str(error))
            return
        backoff = Backoff(self._retry_s)
        well_since = anyio.current_time()
        with held.scope:
            while True:
                try:
                    await self._attempt(watch, held)
                except (NoApiServer, NoAnswer, BadAnswer) as error:
                    watch.restart()
                    self._fail(secret, held, str(error))
                    await anyio.sleep(backoff.after(anyio.current_time() - well_since, self._chance()))
                    well_since = anyio.current_time()

    async def _attempt(self, watch: SecretWatch, held: _Followed) -> None:
        """One request: a list, or a watch until it ends. Raises NoApiServer, NoAnswer or BadAnswer."""
        server, headers = await to_thread.run_sync(self._locate)
        began = anyio.current_time()
        async with get(server, watch.target(), headers, idle_s=_IDLE_S) as response:
            if response.status != _OK:
                raise NoAnswer(str(server), _REFUSALS.get(response.status, f"status {response.status}"))
            if not watch.is_listed():
                watch.take_list(await response.body(_BYTES_MAX))
                self._tell(held, watch.items, "")
                return
            while (text := await response.line(_BYTES_MAX)) is not None:
                watch.take_event(text)
                self._tell(held, watch.items, "")
                if not watch.is_listed():
                    break
        if anyio.current_time() - began < _WATCH_LEAST_S:  # or the two of them would do nothing else
            raise NoAnswer(str(server), "the watch ended as it began")

    def _fail(self, secret: Secret, held: _Followed, reason: str) -> None:
        if held.reason != reason:
            log.warning(line("secret unavailable", path=f"{secret.namespace}/{secret.name}", error=reason))
        self._tell(held, held.items, reason)

    def _tell(self, held: _Followed, items: Items | None, reason: str) -> None:
        if items != held.items:
            self._announced += 1
            announcement, self._announcement = self._announcement, anyio.Event()
            announcement.set()
        held.items, held.reason = items, reason
        held.tried.set()
